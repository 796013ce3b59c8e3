"""Weights of convolutions as constants of a file, for runtimes that are fast with nothing else.

XNNPACK takes a convolution only if its weights stand in the file. They change with every step, so a device writes them
there, and loads the file again. What it writes a graph of its own computes from parameters and buffers: turned,
transposed or scaled, as each convolution wants them. Its outputs are named after the byte at which a tensor stands.
"""

from collections.abc import Mapping

import numpy as np

from cutlayer_core.bundles.bundle import filters_of
from cutlayer_export.tflite.file import to_file
from cutlayer_export.tflite.graph import Graph, Tensor
from cutlayer_export.tflite.partition import needed, part

__all__ = ["with_filters"]

_KERNEL, _BIAS = 1, 2


def with_filters(graphs: Mapping[str, Graph]) -> dict[str, bytes]:
    """The files of ``graphs`` by name, and of what computes the weights of each that has convolutions whose weights change."""
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
    """The same operations on other tensors, which can have other names; and for each tensor what stands for it there."""
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
    """Weights that convolutions read and that parameters and buffers alone decide, with constants in their place."""
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
