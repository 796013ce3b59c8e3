"""Convolution weights as constants of a file, for runtimes that are fast only with constant weights.

XNNPACK takes a convolution only if its weights are stored in the file. They change with every step, so a device writes
them into the file and loads it again. A separate graph computes what to write from parameters and buffers: rotated,
transposed or scaled, as each convolution wants it. Each of its outputs is named after the byte at which it is written.
"""

from collections.abc import Mapping

import numpy as np

from cutlayer_core.bundles.names import filters_of
from cutlayer_export.tflite.file import to_file
from cutlayer_export.tflite.graph import Graph, Tensor
from cutlayer_export.tflite.partition import needed, part

__all__ = ["with_filters"]

_KERNEL, _BIAS = 1, 2


def with_filters(graphs: Mapping[str, Graph]) -> dict[str, bytes]:
    """The files of ``graphs`` by name, and one that computes the weights for each graph with changing convolutions."""
    files = {}
    for name, graph in graphs.items():
        held = _held(graph)
        file = to_file(_replaced(graph, held), name)
        files[name] = file.content
        if held:
            copied, known = _copied(graph)
            sources = {str(file.offsets[constant]): known[tensor] for tensor, constant in held.items()}
            files[filters_of(name)] = to_file(part(copied, sources), filters_of(name)).content
    return files


def _copied(graph: Graph) -> tuple[Graph, dict[Tensor, Tensor]]:
    """The same operations on new tensors, which can get other names, and the new tensor for each old one."""
    copied = Graph(graph.delegated)
    known = {each: copied.input(name, each.shape, each.dtype) for name, each in graph.inputs.items()}
    for operation in graph.operations:
        constants = (each for each in operation.inputs if each is not None and each.data is not None)
        known |= {each: copied.constant(each.data, each.dtype) for each in constants}
        inputs = [each and known[each] for each in operation.inputs]
        made = operation.output
        known[made] = copied.add(operation.kind, inputs, made.shape, made.dtype, **operation.options)
    return copied, known


def _held(graph: Graph) -> dict[Tensor, Tensor]:
    """Convolution weights that depend on parameters and buffers alone, each with the constant to put in its place."""
    producers = {operation.output: operation for operation in graph.operations}
    held = dict[Tensor, Tensor]()
    for operation in graph.operations:
        if operation.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            continue
        read = [operation.inputs[_KERNEL], operation.inputs[_BIAS]]
        if all(_changes_with_steps_alone(each, producers) for each in read if each is not None):
            for each in read:
                if each is not None and each.data is None and each not in held:
                    held[each] = Tensor(each.shape, each.dtype, np.zeros(each.shape, each.dtype))
    return held


def _changes_with_steps_alone(tensor: Tensor, producers: Mapping[Tensor, object]) -> bool:
    sources = [each for each in needed([tensor], producers) if each not in producers and each.data is None]  # type: ignore[arg-type]
    return all(each.name.startswith(("params.", "buffers.")) for each in sources)


def _replaced(graph: Graph, held: Mapping[Tensor, Tensor]) -> Graph:
    result = graph.like()
    result.operations = [
        operation._replace(inputs=tuple(each and held.get(each, each) for each in operation.inputs))
        for operation in graph.operations
    ]
    return part(result, result.outputs)
