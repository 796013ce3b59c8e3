"""A TFLite file on plain ai-edge-litert, or on tflite-runtime where there is no other, as on 32-bit boards."""

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer.errors import UserError

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
_SAVED = "saved."
RUNTIME = f"{_PACKAGE} {version(_PACKAGE)}"
"""Which of them is there."""


@cache
def keep_memory() -> None:
    """Let the C library keep what is freed: a graph that is loaded anew every step takes the same memory again.

    Otherwise the kernel is given it back and clears it again, which takes as long as the computing.
    """
    most_mappings, trim_threshold, never = -4, -1, 2**31 - 1
    with suppress(OSError, AttributeError):  # another C library than GNU's
        set_option = ctypes.CDLL("libc.so.6").mallopt
        set_option(most_mappings, 0)
        set_option(trim_threshold, never)


class TfliteGraph:
    """An interpreter with named inputs and outputs.

    Args:
        content: a TFLite file.
        threads: of one operation.
    """

    def __init__(self, content: bytes, threads: int) -> None:
        self._content, self._threads = bytearray(content), threads
        self._interpreter: Any = None
        self._shapes: dict[str, tuple[int, ...]] = {}

    def write(self, offset: int, value: NDArray[Any]) -> None:
        """Put a constant into the file, which is loaded anew before it is run next."""
        end = offset + value.nbytes
        if not 0 <= offset <= end <= len(self._content):
            raise UserError("the bundle names a place for weights that its graph does not have: export it again")
        self._content[offset:end] = value.tobytes()
        self.unload()

    def feed(self, values: Mapping[str, NDArray[Any]], source: "TfliteGraph | None" = None) -> None:
        """Give it its inputs, by name; saved tensors are those of the last run of ``source``."""
        if self._interpreter is None:
            self._load()
        given = {name: _of(name, values, source) for name in self._inputs}
        with _explained():
            self._resize({name: array.shape for name, array in given.items()})
            for name, index in self._inputs.items():
                self._interpreter.set_tensor(index, np.asarray(given[name], order="C"))

    def run(self) -> _Arrays:
        """Outputs by name, but for ``saved.*``, which stay where they are for a graph whose source this is."""
        with _explained():
            self._interpreter.invoke()
        return {
            name: self._interpreter.get_tensor(index)
            for name, index in self._outputs.items()
            if not name.startswith(_SAVED)
        }

    def unload(self) -> None:
        """Free its memory until it is fed again."""
        self._interpreter = None

    def saved(self, name: str) -> NDArray[Any] | None:
        """An output of the last run, in the interpreter's own memory: not to be kept."""
        view: NDArray[Any] | None = self._interpreter.tensor(self._outputs[name])() if name in self._outputs else None
        return view

    def _load(self) -> None:
        with _explained():
            self._interpreter = runtime.Interpreter(model_content=bytes(self._content), num_threads=self._threads)
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


def _of(name: str, values: Mapping[str, NDArray[Any]], source: TfliteGraph | None) -> NDArray[Any]:
    if name in values:
        return values[name]
    found = source.saved(name) if source is not None else None
    if found is None:
        raise UserError(f"a graph of the bundle wants {name!r}, which its manifest does not describe")
    return found


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except _REFUSED as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"{_PACKAGE} does not run a graph of the bundle, export it again: {reason}") from error
