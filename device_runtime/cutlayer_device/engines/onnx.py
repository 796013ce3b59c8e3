"""The client-side model on plain onnxruntime."""

from collections.abc import Mapping
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.bundles.bundle import Bundle
from cutlayer_core.errors import LocalProtocolError, UserError
from cutlayer_device.engines.base import EngineState
from cutlayer_device.engines.onnx_file import require_self_contained
from cutlayer_device.engines.tables import Tables

try:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime
except ModuleNotFoundError as error:
    raise UserError("the bundle needs onnxruntime: pip install 'cutlayer[device]'") from error

__all__ = ["OnnxEngine", "load"]

_Value = onnxruntime.OrtValue
_Values = dict[str, Any]
_REFUSED = (
    *(runtime.Fail, runtime.InvalidArgument, runtime.InvalidGraph, runtime.InvalidProtobuf, runtime.NotImplemented),
    *(runtime.NoSuchFile, runtime.RuntimeException, RuntimeError),
)


class OnnxEngine:
    """Runs the ONNX graphs of a bundle; see `Engine`.

    Parameters, buffers and optimizer state stay in the runtime's own memory. There are two sets of them: a step reads
    one and writes the other, and then they swap, so nothing is copied and nothing is overwritten while it may still be
    read. Smashed data and saved tensors reuse the memory of the previous step.

    Args:
        bundle: a bundle exported for ONNX.
        threads: threads per operation; 0 lets the runtime choose.
    """

    runtime = f"onnxruntime {onnxruntime.__version__}"
    """What executes the graphs."""

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        onnxruntime.disable_telemetry_events()
        self._bundle, self._threads = bundle, threads
        self._keep(bundle.arrays())
        self._spare: _Values = {}
        self._batch: _Values = {}
        self._reusable: _Values = {}
        self._steps = 0

    def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """See `Engine`."""
        self._tables.read(x)
        return self._smashed(self._inference.run(self._kept | {"x": _view(x)}, {}), x)

    def forward(self, x: NDArray[Any], seed: int = 0) -> NDArray[np.float32]:
        """See `Engine`."""
        rows = self._tables.occur(x)
        offered = {"x": _view(x), "seed": _view(np.asarray(seed, np.int64))}
        offered |= {name: _view(array) for name, array in rows.items()}
        self._reusable, self._batch = self._batch or self._reusable, {}
        # What forward gives is as large as the batch; backward computes again what is as large as the rows that occur.
        fits = bool(self._reusable) and self._reusable["x"].shape() == offered["x"].shape()
        outputs = self._forward.run(self._kept | offered, self._spare | (self._reusable if fits else {}))
        self._keep_news(outputs)
        self._batch = offered | {name: value for name, value in outputs.items() if not name.startswith("new_")}
        return self._smashed(outputs, x)

    def _smashed(self, outputs: _Values, x: NDArray[Any]) -> NDArray[np.float32]:
        wanted = (len(x), *self._bundle.manifest.client.smashed.shape)
        found = tuple(outputs["z"].shape()) if "z" in outputs else ()
        if found != wanted:
            raise UserError(f"a graph of the bundle gives smashed data of shape {found}, its manifest says {wanted}")
        return _array(outputs["z"])

    def backward(self, gradient: NDArray[np.float32], learning_rate: float) -> None:
        """See `Engine`."""
        if not self._batch or gradient.shape != tuple(self._batch["z"].shape()):
            raise LocalProtocolError("backward wants the gradient of the last forward, once")
        step, rate = np.asarray(self._steps + 1, np.int64), np.asarray(learning_rate, np.float32)
        offered = {"g": _view(gradient), "learning_rate": _view(rate), "step": _view(step)}
        outputs = self._backward.run(self._kept | self._batch | offered, self._spare)
        of_tables = [f"new_{name.removeprefix('rows.')}" for name in self._batch if name.startswith("rows.")]
        self._tables.take({name: _array(outputs.pop(name)) for name in of_tables}, float(rate))
        self._keep_news(outputs)
        self._reusable, self._batch = self._batch, {}
        self._steps += 1

    def weights(self) -> dict[str, NDArray[Any]]:
        """See `Engine`."""
        self._tables.finish()
        named = ((name.split(".", 1), value) for name, value in self._kept.items())
        return {name: _array(value).copy() for (kind, name), value in named if kind != "state"}

    def load(self, weights: dict[str, NDArray[Any]]) -> None:
        """See `Engine`."""
        self._tables.finish()
        self._batch = {}  # its rows are those of other weights
        named = {key: key.split(".", 1) for key in self._kept}
        self._keep(
            {key: _array(self._kept[key]) if kind == "state" else weights[name] for key, (kind, name) in named.items()}
        )

    def state(self) -> EngineState:
        """See `Engine`."""
        self._tables.finish()
        return EngineState({name: _array(value).copy() for name, value in self._kept.items()}, self._steps)

    def restore(self, state: EngineState) -> None:
        """See `Engine`."""
        self._keep({name: state.arrays[name] for name in self._kept})
        self._steps, self._batch = state.steps, {}

    def _keep(self, arrays: _Values) -> None:
        """Copy arrays: into the runtime's own memory, or, of tables, into memory that it reads."""
        tables = {f"{kind}.{name}" for kind in ("params", "state.momentum") for name in self._bundle.manifest.tables}
        shared = {name: np.array(array, order="C") for name, array in arrays.items() if name in tables}
        owned = {name: _owned(array) for name, array in arrays.items() if name not in tables}
        self._kept = owned | {name: _view(array) for name, array in shared.items()}
        self._tables = Tables(self._bundle.manifest, shared)

    def _keep_news(self, outputs: _Values) -> None:
        """Make a step's ``new_*`` outputs the inputs of the next; the old inputs' memory takes the ones after that."""
        for name in [name for name in outputs if name.startswith("new_")]:
            key = name.removeprefix("new_")
            self._spare[name], self._kept[key] = self._kept[key], outputs[name]

    # Each graph is loaded when it is first needed: a board that only infers never holds the training graphs.

    @cached_property
    def _inference(self) -> "_Graph":
        return _Graph(self._bundle.graph("inference"), self._threads, self._bundle.manifest.client.optimizer is None)

    @cached_property
    def _forward(self) -> "_Graph":
        return _Graph(self._bundle.graph("forward"), self._threads, fixed_weights=False)

    @cached_property
    def _backward(self) -> "_Graph":
        return _Graph(self._bundle.graph("backward"), self._threads, fixed_weights=False)


def load(bundle: Bundle, threads: int) -> OnnxEngine:
    """See `cutlayer_core.engines`."""
    return OnnxEngine(bundle, threads)


@cache
def _share_memory() -> None:
    """Let all sessions of this process share one memory arena, which grows by what is asked for.

    By default each session has its own arena, which doubles whenever it grows.
    """
    place = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
    doubling = runtime.OrtArenaCfg({"arena_extend_strategy": 0})
    runtime.create_and_register_allocator(place, doubling)


class _Graph:
    """A session with named values bound to it by reference.

    Args:
        model: an ONNX file.
        threads: threads per operation; 0 lets the runtime choose.
        fixed_weights: whether the weights are constants, for which the runtime has faster layouts; for weights that
            change, these would only add conversions.
    """

    def __init__(self, model: bytes, threads: int, fixed_weights: bool) -> None:
        require_self_contained(model)
        _share_memory()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_mem_pattern = False  # it would hold the peak memory of every batch size it has seen
        options.add_session_config_entry("session.use_env_allocators", "1")
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if fixed_weights else levels.ORT_ENABLE_EXTENDED
        # Waking a thread takes longer than many operations, so threads spin, but only while their session runs:
        # otherwise they would compete for the cores with the other session, and waste energy between steps.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except _REFUSED as error:
            reason = str(error).split("\n", 1)[0]
            raise UserError(f"onnxruntime does not take a graph of the bundle, export it again: {reason}") from error
        self._inputs = [each.name for each in self._session.get_inputs()]
        self._outputs = [each.name for each in self._session.get_outputs()]

    def run(self, values: Mapping[str, Any], memory: Mapping[str, Any]) -> _Values:
        """Run the graph; outputs by name, written to ``memory`` where it has one of that name, else to new memory."""
        if missing := [name for name in self._inputs if name not in values]:
            raise UserError(f"a graph of the bundle wants {missing[0]!r}, which its manifest does not describe")
        binding = self._session.io_binding()
        for name in self._inputs:
            binding.bind_ortvalue_input(name, values[name])
        for name in self._outputs:
            if name in memory:
                binding.bind_ortvalue_output(name, memory[name])
            else:
                binding.bind_output(name, "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except _REFUSED as error:
            reason = str(error).split("\n", 1)[0]
            raise UserError(f"a graph of the bundle does not run with these inputs: {reason}") from error
        # Return the bound value itself: it alone keeps its memory alive.
        return {name: memory.get(name, new) for name, new in zip(self._outputs, binding.get_outputs(), strict=True)}


def _view(array: NDArray[Any]) -> Any:
    """The runtime's view of an array, which it reads in place."""
    return _Value.ortvalue_from_numpy(np.asarray(array, order="C"))


def _owned(array: NDArray[Any]) -> Any:
    """A copy in the runtime's own memory."""
    value = _Value.ortvalue_from_shape_and_type(list(array.shape), array.dtype, "cpu")
    value.update_inplace(np.asarray(array, order="C"))
    return value


def _array(value: Any) -> NDArray[Any]:
    array: NDArray[Any] = value.numpy()
    return array
