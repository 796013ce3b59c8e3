"""A TFLite file on plain ai-edge-litert, or on tflite-runtime where that is missing, as on 32-bit boards."""

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.errors import UserError

try:
    from ai_edge_litert import interpreter as runtime

    _PACKAGE = "ai-edge-litert"
except ModuleNotFoundError:
    try:
        from tflite_runtime import interpreter as runtime
    except ModuleNotFoundError as error:
        raise UserError(
            "the bundle needs a TFLite runtime: pip install ai-edge-litert, or on a 32-bit board "
            "tflite-runtime and 'numpy<2'"
        ) from error
    _PACKAGE = "tflite-runtime"
    if int(np.__version__.split(".", 1)[0]) >= 2:
        # Its import succeeds, and the first interpreter fails with an error that does not say why.
        raise UserError(
            f"tflite-runtime was built for numpy 1, found {np.__version__}: pip install 'numpy<2'"
        ) from None

__all__ = ["RUNTIME", "TfliteGraph", "keep_memory"]

_Arrays = dict[str, NDArray[Any]]
_REFUSED = (RuntimeError, ValueError, SystemError)
_SAVED, _NEW = "saved.", "new_"
RUNTIME = f"{_PACKAGE} {version(_PACKAGE)}"
"""The package that is installed, and its version."""


@cache
def keep_memory() -> None:
    """Let the C library keep freed memory, so that a graph that is reloaded in every step gets the same memory again.

    Otherwise the memory goes back to the kernel, which clears it again; that takes as long as the computation.
    """
    most_mappings, trim_threshold, never = -4, -1, 2**31 - 1
    with suppress(OSError, AttributeError):  # not GNU's C library
        set_option = ctypes.CDLL("libc.so.6").mallopt
        set_option(most_mappings, 0)
        set_option(trim_threshold, never)


class TfliteGraph:
    """An interpreter with named inputs and outputs.

    Args:
        content: a TFLite file.
        threads: threads per operation.
    """

    def __init__(self, content: bytes, threads: int) -> None:
        self._content, self._threads = content, threads
        self._interpreter: Any = None
        self._inputs: dict[str, int] = {}
        self._outputs: dict[str, int] = {}
        self._batched = set[str]()
        self._shapes: dict[str, tuple[int, ...]] = {}

    def write(self, values: Mapping[int, NDArray[Any]]) -> None:
        """Write constants into the file, each at its byte offset; the graph is reloaded before it runs next."""
        self.unload()
        content = bytearray(self._content)
        for offset, value in values.items():
            end = offset + value.nbytes
            if not 0 <= offset <= end <= len(content):
                raise UserError("the bundle names a place for weights that its graph does not have: export it again")
            content[offset:end] = value.tobytes()
        self._content = bytes(content)

    def feed(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Set the inputs, by name."""
        if self._interpreter is None:
            self._load()
        if missing := [name for name in self._inputs if name not in values]:
            raise UserError(f"a graph of the bundle wants {missing[0]!r}, which its manifest does not describe")
        with _explained():
            self._resize({name: values[name].shape for name in self._inputs})
            for name, index in self._inputs.items():
                self._interpreter.set_tensor(index, np.asarray(values[name], order="C"))

    def run(self, places: Mapping[str, NDArray[Any]]) -> _Arrays:
        """Run; outputs by name but ``saved.*``, written to ``places`` where it has that name, else to new arrays."""
        with _explained():
            self._interpreter.invoke()
        return {name: self._copied(name, places) for name in self._outputs if not name.startswith(_SAVED)}

    def saved(self, places: Mapping[str, NDArray[Any]]) -> _Arrays:
        """The ``saved.*`` outputs of the last run, likewise."""
        return {name: self._copied(name, places) for name in self._outputs if name.startswith(_SAVED)}

    def room(self, values: Mapping[str, NDArray[Any]]) -> _Arrays:
        """Empty arrays for all outputs but ``new_*``, given inputs of these shapes."""
        self.feed(values)
        details = [each for each in self._interpreter.get_output_details() if not each["name"].startswith(_NEW)]
        self.unload()  # first, or the arrays would lie above its memory
        return {each["name"]: np.empty(each["shape"], each["dtype"]) for each in details}

    def _copied(self, name: str, places: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        found = np.asarray(self._interpreter.tensor(self._outputs[name])())
        place = places.get(name)
        if place is None:
            return found.copy()
        if (place.shape, place.dtype) == (found.shape, found.dtype):
            np.copyto(place, found)
            return place
        if name.startswith(_NEW):
            raise UserError(f"a graph of the bundle gives no {name!r} as its manifest describes it: export it again")
        return found.copy()

    def unload(self) -> None:
        """Free the graph's memory until it is fed again."""
        self._interpreter = None

    def _load(self) -> None:
        with _explained():
            self._interpreter = runtime.Interpreter(model_content=self._content, num_threads=self._threads)
        if not self._inputs:
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            self._inputs = {each["name"]: each["index"] for each in inputs}
            self._outputs = {each["name"]: each["index"] for each in outputs}
            self._batched = {each["name"] for each in inputs if -1 in each["shape_signature"]}
        self._shapes = {}

    def _resize(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if shapes != self._shapes:
            for name in self._batched:
                self._interpreter.resize_tensor_input(self._inputs[name], shapes[name])
            self._interpreter.allocate_tensors()
            self._shapes = shapes


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except _REFUSED as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"{_PACKAGE} does not run a graph of the bundle, export it again: {reason}") from error
