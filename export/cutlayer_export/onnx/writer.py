"""Traced graphs as ONNX models of standard operations, with our input and output names."""

import re
from functools import partial

import onnx
import onnx_ir
import onnxruntime
import torch
from onnx_ir.passes import common
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from onnxscript.optimizer._constant_folding import (
    DEFAULT_CONSTANT_FOLD_INPUT_SIZE_LIMIT,
    DEFAULT_CONSTANT_FOLD_OUTPUT_SIZE_LIMIT,
    FoldConstantsPass,
)
from torch import nn

from cutlayer_core.errors import UserError
from cutlayer_core.trial.optimizers import Sgd
from cutlayer_cut import tracing
from cutlayer_export.errors import CertificateError
from cutlayer_export.graph.form import Arrays, Form, Graphs, Run, Written, versions_of
from cutlayer_export.graph.owners import owner_of_named
from cutlayer_export.graph.partition import partition
from cutlayer_export.graph.rewrites import scale_weights_instead
from cutlayer_export.graph.rows import WithRows
from cutlayer_export.graph.tables import OF_ROWS, by_rows
from cutlayer_export.graph.threads import on_any_threads
from cutlayer_export.graph.training_graph import Graph
from cutlayer_export.graph.winners import keep_winners
from cutlayer_export.graph.winograd_layers import use_winograd
from cutlayer_export.onnx.lines import keep_lines
from cutlayer_export.onnx.operators import TRANSLATIONS
from cutlayer_export.onnx.scatter import index_put

__all__ = ["OPSET", "least_gain", "onnx_files", "to_onnx", "write"]

OPSET = 18
_LEAST_GAIN = 1.1
"""Convolutions that gain less by Winograd's way are left as they are: transformed patches take memory."""
_REFUSALS = (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.UserError, onnx.shape_inference.InferenceError)  # noqa: SLF001
"""What an exporter raises for a graph that it cannot write."""


def write(inference: Graph, training: Graph | None, form: Form) -> Written:
    """Write the graphs of a bundle; see `cutlayer_core.engines`. Raises `UserError` as `to_onnx` does."""
    files, graphs, tables = onnx_files(inference, training, least_gain(form))
    return Written(files, graphs, OPSET, versions_of("onnx", "onnxruntime"), tables=tables)


def least_gain(form: Form) -> float:
    """See `Form`."""
    return _LEAST_GAIN if form.least_gain is None else form.least_gain


def onnx_files(
    inference: Graph, training: Graph | None, least_gain: float
) -> tuple[dict[str, bytes], Graphs, tuple[str, ...]]:
    """The files of a bundle by graph name, the same graphs as functions, and the tables that train by rows.

    Raises:
        UserError: as in `to_onnx`.
    """
    files = {"inference": to_onnx(inference).SerializeToString(deterministic=True)}
    if training is None:
        return files, Graphs(_session(files["inference"])), ()
    training, tables = by_rows(training, inference)
    scale_weights_instead(training.module)
    keep_winners(training.module)
    use_winograd(training.module, least_gain)
    keep_lines(training.module)
    joint = to_onnx(training)
    forward, backward = partition(joint)
    steps = {"forward": forward, "backward": backward}
    files |= {name: model.SerializeToString(deterministic=True) for name, model in steps.items()}
    runs = [_session(each.SerializeToString()) for each in partition(joint, with_gradients=True)]
    if tables:
        assert isinstance(training.optimizer, Sgd)
        runs = [WithRows(each, tables, training.optimizer) for each in runs]
    return files, Graphs(_session(files["inference"]), *runs), tables


def to_onnx(graph: Graph) -> onnx.ModelProto:
    """The ONNX model of ``graph``. Constants become initializers; everything else is an input that can change.

    Raises:
        UserError: the graph has an operation that ONNX does not have.
    """
    inputs = tuple(graph.inputs.values())
    varying = [name in ("x", "g") or name.startswith(OF_ROWS) for name in graph.inputs]
    dynamic = tuple({0: torch.export.Dim.DYNAMIC} if each else None for each in varying)
    with tracing():
        try:
            program = torch.export.export(_Positional(graph.module), inputs, dynamic_shapes=(dynamic,), strict=False)
            exported = torch.onnx.export(
                _without_index_put(program),
                dynamo=True,
                opset_version=OPSET,
                optimize=False,
                verbose=False,
                custom_translation_table=TRANSLATIONS,
            )
        except _REFUSALS as error:
            raise UserError(
                f"the part before the cut cannot be exported to ONNX: {(culprit := _culprit(error))}{owner_of_named(graph.module, culprit)}; "
                "cut before it"
            ) from error
    assert exported is not None
    model = onnx_ir.to_proto(_optimized(exported.model))
    _rename(model, list(graph.inputs), graph.outputs)
    _drop_unused_outputs(model)
    _freeze(model, graph)
    _refuse_races(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"the part before the cut cannot be exported to ONNX: its own checks say {reason}") from error
    return model


def _optimized(model: onnx_ir.Model) -> onnx_ir.Model:
    """Fold constants, and remove duplicate and unused computations.

    The exporter's own optimization does more than that: one of its rules drops the addition of a constant of up to 1e-8
    as if it were zero, and that would remove the epsilon that keeps Adam from dividing by zero.
    """
    result: onnx_ir.Model = onnx_ir.passes.Sequential(
        common.InlinePass(),
        FoldConstantsPass(
            shape_inference=True,
            input_size_limit=DEFAULT_CONSTANT_FOLD_INPUT_SIZE_LIMIT,
            output_size_limit=DEFAULT_CONSTANT_FOLD_OUTPUT_SIZE_LIMIT,
        ),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model).model
    return result


def _without_index_put(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program with repeated indices added rightly; see `scatter`. Tracing it anew takes time, so only where needed."""
    operation = torch.ops.aten.index_put.default
    if not program.graph.find_nodes(op="call_function", target=operation):
        return program
    decomposed: torch.export.ExportedProgram = program.run_decompositions({operation: index_put})
    return decomposed


class _Positional(nn.Module):
    """Wraps the graph in a plain module that takes its inputs one by one, as `torch.export` wants it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        outputs: list[torch.Tensor] = self._module(*inputs)
        return outputs


def _culprit(error: BaseException | None) -> str:
    """The operation that an exporter's error is about, taken from the innermost cause that names one."""
    operation = None
    while error is not None:
        operation = re.search(r"op='([\w.]+)'", str(error)) or operation
        error = error.__cause__
    return f"it has no counterpart of {operation[1]}" if operation else "the exporter failed"


def _rename(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> None:
    """Give inputs and outputs our names, and drop what the exporter wrote about this machine's source files."""
    names = dict(zip((each.name for each in model.graph.input), inputs, strict=True))
    names |= dict(zip((each.name for each in model.graph.output), outputs, strict=True))
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    del model.graph.value_info[:]
    model.ClearField("metadata_props")
    for part in (model.graph, *model.graph.input, *model.graph.output, *model.graph.initializer):
        part.ClearField("metadata_props")


def _drop_unused_outputs(model: onnx.ModelProto) -> None:
    """Drop unused outputs: the exporter names all that an operation may have, and they cost time (max pooling)."""
    used = {name for node in model.graph.node for name in node.input} | {each.name for each in model.graph.output}
    for node in model.graph.node:
        while node.op_type in ("LayerNormalization", "MaxPool") and node.output[-1] not in used:
            node.output.pop()


def _freeze(model: onnx.ModelProto, graph: Graph) -> None:
    """Turn inputs that never change into initializers, which a runtime can prepare once and for all."""
    for value in [each for each in model.graph.input if each.name.startswith("constants.")]:
        model.graph.input.remove(value)
        model.graph.initializer.append(onnx.numpy_helper.from_array(graph.inputs[value.name].numpy(), value.name))


def _refuse_races(model: onnx.ModelProto) -> None:
    """Refuse what onnxruntime computes in parallel without guarding places that occur twice."""
    for node in model.graph.node:
        adds = any(each.name == "reduction" and each.s not in (b"", b"none") for each in node.attribute)
        if node.op_type == "ScatterND" and adds:
            raise UserError(
                "the part before the cut cannot be exported to ONNX: it adds to places that a mask chooses, which "
                "onnxruntime does wrongly on several threads; cut before it"
            )


def _session(graph: bytes) -> Run:
    """A function that runs a graph: it picks the graph's inputs from the values given, and returns the outputs."""
    return on_any_threads(partial(_session_on, graph))


def _session_on(graph: bytes, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch wants the cores in between
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names, wanted = [each.name for each in session.get_outputs()], [each.name for each in session.get_inputs()]

    def run(values: Arrays) -> Arrays:
        try:
            results = session.run(names, {name: values[name] for name in wanted})
        except (runtime.Fail, runtime.InvalidArgument, runtime.NotImplemented, runtime.RuntimeException) as error:
            reason = str(error).split("\n", 1)[0]
            raise CertificateError(
                f"onnxruntime does not run a graph with {len(values['x'])} samples: {reason}"
            ) from error
        return {name: result.copy() for name, result in zip(names, results, strict=True)}

    return run
