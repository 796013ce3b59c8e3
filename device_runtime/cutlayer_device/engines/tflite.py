"""The client-side model on plain ai-edge-litert, or on tflite-runtime where there is no other, as on 32-bit boards."""

import os
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer.bundle import Bundle
from cutlayer.errors import LocalProtocolError, UserError
from cutlayer_device.engines.base import EngineState
from cutlayer_device.engines.tflite_graph import RUNTIME, TfliteGraph, keep_memory

__all__ = ["TfliteEngine"]

_Arrays = dict[str, NDArray[Any]]
_Filters = list[tuple[int, NDArray[Any]]]


class TfliteEngine:
    """Runs the TFLite graphs of a bundle; see `Engine`.

    A bundle has one of two forms. Either parameters are inputs of every graph; or weights of convolutions stand in the
    files of the graphs, and after every step the graph ``filters`` computes what is to be written there.

    Args:
        bundle: a bundle exported for TFLite.
        threads: threads of one operation; 0 for one a core.
    """

    runtime = RUNTIME
    """What executes the graphs."""

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        self._bundle, self._threads = bundle, threads or os.cpu_count() or 1
        self._kept: _Arrays = bundle.arrays()
        self._batch: _Arrays = {}
        self._steps = 0
        self._graphs: dict[str, TfliteGraph] = {}
        self._filters: dict[str, _Filters] | None = None
        if bundle.has_graph("filters"):
            keep_memory()

    def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """See `Engine`."""
        return self._smashed(self._outputs("inference", {"x": x}), x)

    def forward(self, x: NDArray[Any], seed: int = 0) -> NDArray[np.float32]:
        """See `Engine`."""
        offered: _Arrays = {"x": np.array(x, order="C"), "seed": np.asarray(seed, np.int64)}
        outputs = self._outputs("forward", offered)
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
        offered: _Arrays = self._batch | {"g": gradient, "learning_rate": rate, "step": step}
        self._batch = {}
        forward, backward = self._graphs["forward"], self._graph("backward")
        backward.feed(self._kept | offered, source=forward)
        if reloads := self._bundle.has_graph("filters"):  # of both, since weights change
            forward.unload()
        self._keep_news(backward.run())
        if reloads:
            backward.unload()
        self._steps += 1

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
        self._steps, self._batch = state.steps, {}
        self._weights_changed()

    def _keep_news(self, outputs: _Arrays) -> None:
        news = {name.removeprefix("new_"): value for name, value in outputs.items() if name.startswith("new_")}
        self._kept |= news
        if news:
            self._weights_changed()

    def _weights_changed(self) -> None:
        self._filters = None

    def _graph(self, name: str) -> TfliteGraph:
        """A graph with the weights of now. Each is loaded when it is first wanted."""
        if name not in self._graphs:
            self._graphs[name] = TfliteGraph(self._bundle.graph(name), self._threads)
        if self._filters is None and name != "filters":
            self._filters = self._computed_filters()
        for offset, value in (self._filters or {}).pop(name, []):
            self._graphs[name].write(offset, value)
        return self._graphs[name]

    def _computed_filters(self) -> "dict[str, _Filters]":
        """What is to be written into the file of each graph, and where: outputs are named ``<graph>.<offset>``."""
        found: dict[str, _Filters] = {}
        if self._bundle.has_graph("filters"):
            for place, value in self._outputs("filters", {}).items():
                graph, _, offset = place.partition(".")
                if not re.fullmatch(r"\d{1,12}", offset) or not self._bundle.has_graph(graph):
                    raise UserError(f"the bundle names no place for the weights {place!r}: export it again")
                found.setdefault(graph, []).append((int(offset), value))
        return found

    def _outputs(self, name: str, offered: _Arrays) -> _Arrays:
        graph = self._graph(name)
        graph.feed(self._kept | offered)
        return graph.run()
