"""The client-side model on plain ai-edge-litert, or on tflite-runtime where there is no other, as on 32-bit boards."""

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer.bundle import Bundle
from cutlayer.errors import LocalProtocolError, UserError
from cutlayer_device.engines.base import EngineState

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

__all__ = ["TfliteEngine"]

_Arrays = dict[str, NDArray[Any]]
_Filters = list[tuple[int, NDArray[Any]]]
_REFUSED = (RuntimeError, ValueError, SystemError)
_SAVED = "saved."


class TfliteEngine:
    """Runs the TFLite graphs of a bundle; see `Engine`.

    A bundle has one of two forms. Either parameters are inputs of every graph; or weights of convolutions stand in the
    files of the graphs, and after every step the graph ``filters`` computes what is to be written there.

    Args:
        bundle: a bundle exported for TFLite.
        threads: threads of one operation; 0 for one a core.
    """

    runtime = f"{_PACKAGE} {version(_PACKAGE)}"
    """What executes the graphs."""

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        self._bundle, self._threads = bundle, threads or os.cpu_count() or 1
        self._kept: _Arrays = bundle.arrays()
        self._batch: _Arrays = {}
        self._steps = 0
        self._graphs: dict[str, _Graph] = {}
        self._filters: dict[str, _Filters] | None = None
        if bundle.has_graph("filters"):
            _keep_memory()

    def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """See `Engine`."""
        return self._smashed(self._graph("inference").run({**self._kept, "x": x}), x)

    def forward(self, x: NDArray[Any], seed: int = 0) -> NDArray[np.float32]:
        """See `Engine`."""
        offered: _Arrays = {"x": np.array(x, order="C"), "seed": np.asarray(seed, np.int64)}
        outputs = self._graph("forward").run(self._kept | offered)
        z = self._smashed(outputs, x)
        self._keep_news(outputs)
        self._batch = offered | {"z": z}
        return z

    def _smashed(self, outputs: _Arrays, x: NDArray[Any]) -> NDArray[np.float32]:
        wanted = (len(x), *self._bundle.manifest.client.smashed.shape)
        found = outputs["z"].shape if "z" in outputs else ()
        if found != wanted:
            raise UserError(f"a graph of the bundle gives smashed data of shape {found}, its manifest says {wanted}")
        return outputs["z"]

    def backward(self, gradient: NDArray[np.float32], learning_rate: float) -> None:
        """See `Engine`."""
        if not self._batch or gradient.shape != self._batch["z"].shape:
            raise LocalProtocolError("backward wants the gradient of the last forward, once")
        step, rate = np.asarray(self._steps + 1, np.int64), np.asarray(learning_rate, np.float32)
        offered: _Arrays = {"g": gradient, "learning_rate": rate, "step": step}
        saved = self._graphs["forward"]
        self._keep_news(self._graph("backward").run(self._kept | self._batch | offered, saved))
        self._batch = {}
        self._steps += 1
        self._weights_changed()

    def weights(self) -> _Arrays:
        """See `Engine`."""
        named = ((name.split(".", 1), value) for name, value in self._kept.items())
        return {name: value.copy() for (kind, name), value in named if kind != "state"}

    def load(self, weights: _Arrays) -> None:
        """See `Engine`."""
        for key in self._kept:
            kind, name = key.split(".", 1)
            if kind != "state":
                self._kept[key] = weights[name].copy()
        self._weights_changed()

    def state(self) -> EngineState:
        """See `Engine`."""
        return EngineState({name: value.copy() for name, value in self._kept.items()}, self._steps)

    def restore(self, state: EngineState) -> None:
        """See `Engine`."""
        self._kept = {name: state.arrays[name].copy() for name in self._kept}
        self._steps = state.steps
        self._weights_changed()

    def _keep_news(self, outputs: _Arrays) -> None:
        self._kept |= {name.removeprefix("new_"): value for name, value in outputs.items() if name.startswith("new_")}

    def _weights_changed(self) -> None:
        self._filters = None

    def _graph(self, name: str) -> "_Graph":
        """A graph with the weights of now. Each is loaded when it is first wanted."""
        if name not in self._graphs:
            self._graphs[name] = _Graph(self._bundle.graph(name), self._threads)
        if self._filters is None:
            self._filters = self._computed_filters()
        for offset, value in self._filters.pop(name, []):
            self._graphs[name].write(offset, value)
        return self._graphs[name]

    def _computed_filters(self) -> "dict[str, _Filters]":
        """What is to be written into the file of each graph, and where: outputs are named ``<graph>.<offset>``."""
        found: dict[str, _Filters] = {}
        if self._bundle.has_graph("filters"):
            for place, value in self._filters_graph.run(self._kept).items():
                graph, _, offset = place.partition(".")
                if not offset.isdecimal() or not self._bundle.has_graph(graph):
                    raise UserError(f"the bundle names no place for the weights {place!r}: export it again")
                found.setdefault(graph, []).append((int(offset), value))
        return found

    @cached_property
    def _filters_graph(self) -> "_Graph":
        return _Graph(self._bundle.graph("filters"), self._threads)


@cache
def _keep_memory() -> None:
    """Let the C library keep what is freed: a graph that is loaded anew every step takes the same memory again.

    Otherwise the kernel is given it back and clears it again, which takes as long as the computing.
    """
    most_mappings, trim_threshold, never = -4, -1, 2**31 - 1
    with suppress(OSError, AttributeError):  # another C library than GNU's
        set_option = ctypes.CDLL("libc.so.6").mallopt
        set_option(most_mappings, 0)
        set_option(trim_threshold, never)


class _Graph:
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
        self._interpreter = None

    def run(self, values: Mapping[str, NDArray[Any]], source: "_Graph | None" = None) -> _Arrays:
        """Outputs by name, but for ``saved.*``, which stay where they are until a graph whose ``source`` this is wants them."""
        if self._interpreter is None:
            self._load()
        given = {name: _of(name, values, source) for name in self._inputs}
        with _explained():
            self._resize({name: array.shape for name, array in given.items()})
            for name, index in self._inputs.items():
                self._interpreter.set_tensor(index, np.asarray(given[name], order="C"))
            self._interpreter.invoke()
        return {
            name: self._interpreter.get_tensor(index)
            for name, index in self._outputs.items()
            if not name.startswith(_SAVED)
        }

    def saved(self, name: str) -> NDArray[Any] | None:
        """An output of the last run, in the interpreter's own memory: not to be kept."""
        view: NDArray[Any] | None = self._interpreter.tensor(self._outputs[name])() if name in self._outputs else None
        return view

    def _load(self) -> None:
        with _explained():
            self._interpreter = runtime.Interpreter(model_content=bytes(self._content), num_threads=self._threads)
            inputs = self._interpreter.get_input_details()
        self._inputs = {each["name"]: each["index"] for each in inputs}
        self._outputs = {each["name"]: each["index"] for each in self._interpreter.get_output_details()}
        self._batched = {each["name"] for each in inputs if -1 in each["shape_signature"]}
        self._shapes = {}

    def _resize(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if shapes != self._shapes:
            for name in self._batched:
                self._interpreter.resize_tensor_input(self._inputs[name], shapes[name])
            self._interpreter.allocate_tensors()
            self._shapes = shapes


def _of(name: str, values: Mapping[str, NDArray[Any]], source: _Graph | None) -> NDArray[Any]:
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
