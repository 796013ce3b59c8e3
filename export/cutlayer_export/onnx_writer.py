"""A traced graph as an ONNX model with our input and output names."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from torch import nn

from cutlayer.errors import UserError
from cutlayer_export.training_graph import Graph

__all__ = ["OPSET", "to_onnx"]

OPSET = 18


class _Wrapper(nn.Module):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph

    def forward(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        outputs = self._graph.module(inputs)
        return [outputs[name] for name in self._graph.outputs]


def to_onnx(graph: Graph) -> bytes:
    """Serialized ONNX of ``graph``; every input is a graph input, so stock runtimes can be given new values.

    Raises:
        UserError: the graph has an operation that ONNX does not have.
    """
    dynamic = {name: {0: torch.export.Dim.DYNAMIC} if name in graph.batched else None for name in graph.inputs}
    with _quiet():
        try:
            program = torch.export.export(_Wrapper(graph), (graph.inputs,), dynamic_shapes=(dynamic,))
            exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, optimize=True, verbose=False)
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(f"the part before the cut cannot be exported to ONNX: {_culprit(error)}") from error
    assert exported is not None
    model = exported.model_proto
    _rename(model, list(graph.inputs), graph.outputs)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _culprit(error: BaseException | None) -> str:
    """The operation that an exporter's error is about: it stands in the innermost of its causes."""
    operation = None
    while error is not None:
        operation = re.search(r"op='([\w.]+)'", str(error)) or operation
        error = error.__cause__
    return f"it has no counterpart of {operation[1]}; cut before it" if operation else "cut before it"


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
    model.graph.ClearField("metadata_props")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's reports on its own progress and on packages that are not needed."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
