"""The client-side model on plain onnxruntime."""

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cutlayer.bundle import Bundle

__all__ = ["OnnxEngine"]

_Value = onnxruntime.OrtValue


class OnnxEngine:
    """Runs ``forward.onnx`` and ``backward.onnx``; see `Engine`.

    Parameters, buffers and optimizer state stay in the runtime's own memory: what one step gives out is what the next
    step takes in, so a step copies x, z and the gradient only.

    Args:
        bundle: a bundle exported for ONNX.
        threads: threads of one operation; 0 lets the runtime choose.
    """

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        onnxruntime.disable_telemetry_events()
        self._graphs = {name: _session(bundle.graph(name), threads) for name in ("forward", "backward")}
        self._kept = {name: _Value.ortvalue_from_numpy(array) for name, array in bundle.arrays().items()}

    def forward(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Engine`."""
        z: NDArray[np.float32] = self._run("forward", {"x": x})["z"].numpy()
        return z

    def backward(self, x: NDArray[np.float32], gradient: NDArray[np.float32], learning_rate: float) -> None:
        """See `Engine`."""
        self._run("backward", {"x": x, "g": gradient, "learning_rate": np.asarray(learning_rate, np.float32)})

    def weights(self) -> dict[str, NDArray[Any]]:
        """See `Engine`."""
        named = ((name.split(".", 1), value) for name, value in self._kept.items())
        return {name: value.numpy().copy() for (kind, name), value in named if kind != "state"}

    def load(self, weights: dict[str, NDArray[Any]]) -> None:
        """See `Engine`."""
        for key in self._kept:
            kind, name = key.split(".", 1)
            if kind != "state":
                self._kept[key] = _Value.ortvalue_from_numpy(np.asarray(weights[name], order="C"))

    def _run(self, graph: str, offered: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Run a graph on what is offered and kept; outputs named ``new_*`` are kept for the next run."""
        session = self._graphs[graph]
        values = {name: _Value.ortvalue_from_numpy(np.asarray(array, order="C")) for name, array in offered.items()}
        values |= self._kept
        names = [each.name for each in session.get_outputs()]
        feeds = {each.name: values[each.name] for each in session.get_inputs()}
        outputs = dict(zip(names, session.run_with_ort_values(names, feeds), strict=True))
        self._kept |= {name.removeprefix("new_"): outputs.pop(name) for name in names if name.startswith("new_")}
        return outputs


def _session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Two sessions whose idle threads spin would fight for the same cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
