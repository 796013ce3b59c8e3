"""Writes traced graphs as the TFLite files of a bundle."""

from math import inf
from typing import Any

from numpy.typing import NDArray

from cutlayer_core.trial.optimizers import Sgd
from cutlayer_export.graph.form import Form, Graphs, Written, versions_of
from cutlayer_export.graph.rows import WithRows
from cutlayer_export.graph.tables import by_rows
from cutlayer_export.graph.training_graph import Graph as Traced
from cutlayer_export.graph.winograd_layers import use_winograd
from cutlayer_export.tflite.file import SCHEMA_VERSION, to_file
from cutlayer_export.tflite.filters import with_filters
from cutlayer_export.tflite.fusion import fused
from cutlayer_export.tflite.graph import Graph
from cutlayer_export.tflite.lowering import lower
from cutlayer_export.tflite.partition import part, partition
from cutlayer_export.tflite.precision import in_float16, in_int8
from cutlayer_export.tflite.runner import runner

__all__ = ["in_precision", "least_gain", "tflite_files", "write"]

_LEAST_GAIN = 1.4
"""Convolutions that gain less by Winograd's way are left as they are: XNNPACK is faster at them than at small products."""


def write(inference: Traced, training: Traced | None, form: Form) -> Written:
    """Write the graphs of a bundle, see `cutlayer_core.engines`; raises as `tflite_files` and `in_precision` do."""
    delegated = form.target == "xnnpack"
    files, graphs, tables = tflite_files(inference, training, delegated, least_gain(form))
    versions = versions_of("flatbuffers", "ai-edge-litert")
    if form.precision == "float32":
        return Written(files, graphs, SCHEMA_VERSION, versions, tables=tables)
    if form.precision == "int8":
        versions |= versions_of("ai-edge-quantizer")
    files = {"inference": in_precision(inference, delegated, form.precision, form.samples)}
    return Written(files, graphs, SCHEMA_VERSION, versions, runner(files, "inference"))


def least_gain(form: Form) -> float:
    """See `Form`."""
    if form.target != "xnnpack":
        return inf  # a graph for any runtime has none
    return _LEAST_GAIN if form.least_gain is None else form.least_gain


def tflite_files(
    inference: Traced, training: Traced | None, delegated: bool, least_gain: float
) -> tuple[dict[str, bytes], Graphs, tuple[str, ...]]:
    """The files by graph name, the same graphs as functions, and the tables that train by rows.

    Args:
        inference: the traced inference graph.
        training: the traced training graph; None for a frozen client.
        delegated: see `Graph`; if so, convolution weights are stored in the files.
        least_gain: see `Form`.

    Raises:
        UserError: a graph has an operation that TFLite's builtin operations cannot express.
    """
    graphs = {"inference": _pruned(fused(lower(inference, delegated)))}
    if training is None:
        files = _files(graphs, delegated)
        return files, Graphs(runner(files, "inference")), ()
    training, tables = by_rows(training, inference, padded=True)
    use_winograd(training.module, least_gain)
    forward, backward = partition(lower(training, delegated))
    graphs |= {"forward": fused(forward), "backward": fused(backward)}
    certified = _files(graphs, delegated)
    steps = {name: each for name, each in backward.outputs.items() if not name.startswith("gradients.")}
    files = _files({**graphs, "backward": fused(part(backward, steps))}, delegated)
    inferring, *steps_of = (runner(certified, name) for name in graphs)
    if tables:
        assert isinstance(training.optimizer, Sgd)
        steps_of = [WithRows(each, tables, training.optimizer, padded=True) for each in steps_of]
    return files, Graphs(inferring, *steps_of), tables


def in_precision(inference: Traced, delegated: bool, precision: str, samples: NDArray[Any] | None) -> bytes:
    """The inference file in float16 or int8, whose ranges are those of ``samples``.

    Raises:
        UserError: ai-edge-quantizer is missing.
    """
    graph = _pruned(fused(lower(inference, delegated)))
    return to_file(in_float16(graph), "inference").content if precision == "float16" else in_int8(graph, samples)


def _pruned(graph: Graph) -> Graph:
    """The graph without what nobody reads."""
    return part(graph, graph.outputs)


def _files(graphs: dict[str, Graph], delegated: bool) -> dict[str, bytes]:
    return with_filters(graphs) if delegated else {name: to_file(each, name).content for name, each in graphs.items()}
