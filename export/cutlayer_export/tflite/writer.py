"""Writes traced graphs as the TFLite files of a bundle."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.errors import UserError
from cutlayer_export.graph.form import Form, Graphs, Written, versions_of
from cutlayer_export.graph.training_graph import Graph as Traced
from cutlayer_export.tflite.file import SCHEMA_VERSION, to_file
from cutlayer_export.tflite.filters import with_filters
from cutlayer_export.tflite.fusion import fused
from cutlayer_export.tflite.graph import Graph
from cutlayer_export.tflite.lowering import lower
from cutlayer_export.tflite.partition import part, partition
from cutlayer_export.tflite.precision import in_float16, in_int8
from cutlayer_export.tflite.runner import runner

__all__ = ["in_precision", "tflite_files", "write"]


def write(inference: Traced, training: Traced | None, form: Form) -> Written:
    """Write the graphs of a bundle, see `cutlayer_core.engines`; raises as `tflite_files` and `in_precision` do."""
    delegated = form.target == "xnnpack"
    files, graphs = tflite_files(inference, training, delegated)
    versions, error = versions_of("flatbuffers", "ai-edge-litert"), 0.0
    if form.precision != "float32":
        files, error = in_precision(inference, delegated, form.precision, form.samples)
        if error > form.max_error:
            raise UserError(
                f"--precision {form.precision}: it changes smashed data by {error:.1%} of their size, allowed: up to "
                f"{form.max_error:.1%}; use more bits, other samples for --calibration, or a higher --max-error"
            )
    if form.precision == "int8":
        versions |= versions_of("ai-edge-quantizer")
    return Written(files, graphs, SCHEMA_VERSION, versions, error)


def tflite_files(inference: Traced, training: Traced | None, delegated: bool) -> tuple[dict[str, bytes], Graphs]:
    """The files by graph name, and the same graphs as functions.

    Args:
        inference: the traced inference graph.
        training: the traced training graph; None for a frozen client.
        delegated: see `Graph`; if so, convolution weights are stored in the files.

    Raises:
        UserError: a graph has an operation that TFLite's builtin operations cannot express.
    """
    graphs = {"inference": _pruned(fused(lower(inference, delegated)))}
    if training is None:
        files = _files(graphs, delegated)
        return files, Graphs(runner(files, "inference"))
    forward, backward = partition(lower(training, delegated))
    graphs |= {"forward": fused(forward), "backward": fused(backward)}
    certified = _files(graphs, delegated)
    steps = {name: each for name, each in backward.outputs.items() if not name.startswith("gradients.")}
    files = _files({**graphs, "backward": fused(part(backward, steps))}, delegated)
    return files, Graphs(*(runner(certified, name) for name in graphs))


def in_precision(
    inference: Traced, delegated: bool, precision: str, samples: NDArray[Any] | None
) -> tuple[dict[str, bytes], float]:
    """The inference file in float16 or int8, and how far its smashed data are from those in float32.

    That distance is the root mean square of the differences divided by that of the smashed data, over ``samples``, or
    over random inputs if there are none.

    Raises:
        UserError: ai-edge-quantizer is missing, or does not take the graph.
    """
    graph = _pruned(fused(lower(inference, delegated)))
    exact = runner({"inference": to_file(graph, "inference").content}, "inference")
    content = to_file(in_float16(graph), "inference").content if precision == "float16" else in_int8(graph, samples)
    x = inference.inputs["x"].numpy() if samples is None else samples
    wanted, found = (run({"x": x})["z"].astype(np.float64) for run in (exact, runner({"i": content}, "i")))
    error = float(np.sqrt(np.mean((found - wanted) ** 2))) / (float(np.sqrt(np.mean(wanted**2))) or 1.0)
    if not np.isfinite(error):
        raise UserError(f"--precision {precision}: smashed data are not finite with it; use more bits")
    return {"inference": content}, error


def _pruned(graph: Graph) -> Graph:
    """The graph without what nobody reads."""
    return part(graph, graph.outputs)


def _files(graphs: dict[str, Graph], delegated: bool) -> dict[str, bytes]:
    return with_filters(graphs) if delegated else {name: to_file(each, name).content for name, each in graphs.items()}
