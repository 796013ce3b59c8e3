"""The client-side model on plain ai-edge-litert, or on tflite-runtime where that is missing, as on 32-bit boards."""

import os
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.bundles.bundle import Bundle
from cutlayer_core.bundles.names import filters_of
from cutlayer_core.errors import LocalProtocolError, UserError
from cutlayer_device.engines.base import EngineState
from cutlayer_device.engines.tables import Tables
from cutlayer_device.engines.tflite_graph import RUNTIME, TfliteGraph, keep_memory

__all__ = ["TfliteEngine", "load"]

_Arrays = dict[str, NDArray[Any]]

_SMALL = 16 << 20
"""Bytes of tensors up to which all graphs stay loaded: loading them for each step would take as long as running them."""
_PER_ACTIVATION, _PER_PARAMETER = 16, 4
"""About how many tensors of a graph are as large as its samples and what passes to another, and as the parameters: a
gradient has one for each kernel tap."""


class TfliteEngine:
    """Runs the TFLite graphs of a bundle; see `Engine`.

    A bundle has one of two forms. Either parameters are inputs of every graph; or convolution weights are stored in the
    files of the graphs, and after every step separate graphs compute what to write there.

    Forward is unloaded before backward is loaded, so that both use the same memory; what passes from one to the other is
    kept outside. That, smashed data, parameters, buffers and optimizer state stay where they are from step to step: an
    array that is made during a step and outlives it would be in the way of what is loaded for the next one. Graphs that
    need little memory stay loaded.

    Args:
        bundle: a bundle exported for TFLite.
        threads: threads per operation; 0 for one per core.
    """

    runtime = RUNTIME
    """What executes the graphs."""

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        self._bundle, self._threads = bundle, threads or os.cpu_count() or 1
        self._kept = {name: array.copy() for name, array in bundle.arrays().items()}
        self._of_tables = {f"{kind}.{name}" for kind in ("params", "state.momentum") for name in bundle.manifest.tables}
        self._tables = Tables(bundle.manifest, self._kept, padded=True)
        self._batch: _Arrays = {}
        self._room: _Arrays = {}
        """Memory for smashed data and saved tensors."""
        self._small = False
        self._steps = 0
        self._graphs: dict[str, TfliteGraph] = {}
        self._current = set[str]()
        """Graphs whose files hold the current weights."""
        keep_memory()

    def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """See `Engine`."""
        self._tables.read(x)
        graph = self._graph("inference")
        graph.feed(self._kept | {"x": x})
        return self._smashed(graph.run({}), x)

    def forward(self, x: NDArray[Any], seed: int = 0) -> NDArray[np.float32]:
        """See `Engine`."""
        self._batch = {}
        if "inference" in self._graphs:  # it would hold memory that training needs
            self._graphs["inference"].unload()
        offered: _Arrays = {"x": np.asarray(x, order="C"), "seed": np.asarray(seed, np.int64), **self._tables.occur(x)}
        graph = self._graph("forward")
        if "z" not in self._room or len(self._room["z"]) != len(x):
            self._room = {}  # free the old one before making another
            self._room = graph.room(self._kept | offered)
            self._small = self._tensors(x) <= _SMALL
        graph.feed(self._kept | offered)
        self._batch = offered | {"z": self._smashed(self._run(graph), x)}
        return self._batch["z"]

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
        offered: _Arrays = self._batch | {"g": gradient, "learning_rate": rate, "step": step}
        self._batch = {}
        forward = self._graphs["forward"]
        saved = forward.saved(self._room)
        self._rest(forward)
        backward = self._graph("backward")
        backward.feed(self._kept | offered | saved)
        self._tables.take(self._run(backward), float(rate))
        self._rest(backward)
        self._steps += 1

    def _tensors(self, x: NDArray[Any]) -> int:
        """About how many bytes the tensors of the training graphs take up."""
        parameters = (each.nbytes for name, each in self._kept.items() if name not in self._of_tables)
        activations = (each.nbytes for each in (*self._room.values(), x))
        return _PER_PARAMETER * sum(parameters) + _PER_ACTIVATION * sum(activations)

    def _rest(self, graph: TfliteGraph) -> None:
        if not self._small:
            graph.unload()

    def weights(self) -> _Arrays:
        """See `Engine`."""
        self._tables.finish()
        named = ((name.split(".", 1), value) for name, value in self._kept.items())
        return {name: value.copy() for (kind, name), value in named if kind != "state"}

    def load(self, weights: _Arrays) -> None:
        """See `Engine`."""
        self._tables.finish()
        self._batch = {}  # its rows are those of other weights
        for key in self._kept:
            kind, name = key.split(".", 1)
            if kind != "state":
                np.copyto(self._kept[key], weights[name])
        self._current.clear()

    def state(self) -> EngineState:
        """See `Engine`."""
        self._tables.finish()
        return EngineState({name: value.copy() for name, value in self._kept.items()}, self._steps)

    def restore(self, state: EngineState) -> None:
        """See `Engine`."""
        self._tables.finish()  # so that no row owes anything
        for name, kept in self._kept.items():
            np.copyto(kept, state.arrays[name])
        self._steps, self._batch = state.steps, {}
        self._current.clear()

    def _graph(self, name: str) -> TfliteGraph:
        """A graph with the current weights. Each is loaded when it is first needed."""
        graph = self._open(name, self._threads)
        if name not in self._current:
            self._current.add(name)
            if self._bundle.has_graph(filters_of(name)):
                self._write_filters(name)
        return graph

    def _open(self, name: str, threads: int) -> TfliteGraph:
        if name not in self._graphs:
            self._graphs[name] = TfliteGraph(self._bundle.graph(name), threads)
        return self._graphs[name]

    def _write_filters(self, name: str) -> None:
        filters = self._open(filters_of(name), threads=1)  # more would take longer to start than to compute
        filters.feed(self._kept)
        values = filters.run({})
        self._rest(filters)
        if unnamed := [place for place in values if not re.fullmatch("[0-9]{1,12}", place)]:
            raise UserError(f"the bundle names no place for the weights {unnamed[0]!r} of {name}: export it again")
        self._graphs[name].write({int(place): value for place, value in values.items()})

    def _run(self, graph: TfliteGraph) -> _Arrays:
        """Run a graph; outputs by name. New parameters, buffers and state replace the old ones in place."""
        kept = {f"new_{name}": array for name, array in self._kept.items() if name not in self._of_tables}
        outputs = graph.run(kept | self._room)
        if outputs.keys() & kept:
            self._current.clear()
        return outputs


def load(bundle: Bundle, threads: int) -> TfliteEngine:
    """See `cutlayer_core.engines`."""
    return TfliteEngine(bundle, threads)
