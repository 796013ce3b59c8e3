"""Fuses operations into the one before them: activations, and scales and shifts of channels after a convolution.

A convolution can include an activation, and a convolution followed by BatchNorm with running statistics is the same as
one convolution with other weights (Krishnamoorthi, arXiv 1806.08342, section 3.2.2).
"""

from collections import Counter

from cutlayer_export.tflite.file import ACTIVATIONS, KINDS
from cutlayer_export.tflite.graph import Graph, Operation, Tensor

__all__ = ["fused"]

_CONVOLUTIONS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
"""Each with the axis of its kernel that holds the output channels."""


def fused(graph: Graph) -> Graph:
    """The same graph with fewer operations."""
    return _with_activations(_with_channels(graph))


def _with_channels(graph: Graph) -> Graph:
    """Fold scales and shifts that do not depend on samples into the convolution before them."""
    result = _Rewritten(graph)
    fixed = _fixed(graph)
    for operation in graph.operations:
        source, other = result.single_source(operation)
        if source is None or source.kind not in _CONVOLUTIONS or operation.kind not in ("MUL", "ADD"):
            result.keep(operation)
            continue
        channels = source.output.shape[-1]
        if other not in fixed or other.shape != (channels,):
            result.keep(operation)
            continue
        x, kernel, bias = source.inputs
        assert kernel is not None
        assert bias is not None
        if operation.kind == "ADD":
            bias = result.graph.plus(bias, other)
        else:
            places = [channels if each == _CONVOLUTIONS[source.kind] else 1 for each in range(4)]
            kernel = result.graph.times(kernel, result.graph.reshape(other, places))
            bias = result.graph.times(bias, other)
        result.replace(source, operation, source._replace(inputs=(x, kernel, bias)))
    return result.graph


def _with_activations(graph: Graph) -> Graph:
    result = _Rewritten(graph)
    for operation in graph.operations:
        source, _ = result.single_source(operation) if operation.kind in ACTIVATIONS else (None, None)
        fields = {name for name, *_ in KINDS[source.kind].fields} if source else set()
        if source is None or "activation" not in fields or "activation" in source.options:
            result.keep(operation)
        else:
            options = source.options | {"activation": ACTIVATIONS[operation.kind]}
            result.replace(source, operation, source._replace(options=options))
    return result.graph


def _fixed(graph: Graph) -> set[Tensor]:
    """Tensors that do not depend on samples: constants, weights, buffers, and what is computed from them."""
    varying = {each for name, each in graph.inputs.items() if not name.startswith(("params.", "buffers."))}
    for operation in graph.operations:
        if any(each in varying for each in operation.inputs):
            varying.add(operation.output)
    every = {each for operation in graph.operations for each in (operation.output, *operation.inputs) if each}
    return every - varying


class _Rewritten:
    """A copy of a graph under construction, on the same tensors."""

    def __init__(self, original: Graph) -> None:
        self.graph = original.like()
        self._readers = Counter(each for operation in original.operations for each in operation.inputs)
        self._readers.update(original.outputs.values())
        self._producers: dict[Tensor, Operation] = {}

    def single_source(self, operation: Operation) -> tuple[Operation | None, Tensor | None]:
        """The operation that makes the first input, if nobody else reads that, and the second input."""
        first, *others = operation.inputs
        source = self._producers.get(first) if first is not None and self._readers[first] == 1 else None
        return source, others[0] if others else None

    def keep(self, operation: Operation) -> None:
        """Add an operation unchanged."""
        self.graph.operations.append(operation)
        self._producers[operation.output] = operation

    def replace(self, source: Operation, operation: Operation, both: Operation) -> None:
        """Put ``both`` in the place of two operations."""
        self.graph.operations.remove(source)
        self.keep(both._replace(output=operation.output))
