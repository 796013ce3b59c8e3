"""Values of a traced graph as tensors of a TFLite graph, in which images have their channels last."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cutlayer_export.tflite.graph import Graph, Tensor
from cutlayer_export.tflite.shapes import entries

__all__ = ["CHANNELS_LAST", "PerSample", "Value", "aligned", "count", "images", "plain", "scalar", "sizes", "valued"]

_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""From torch's order of the axes of images to the runtime's, and back."""
CHANNELS_LAST = {0: 0, 1: 3, 2: 1, 3: 2}
"""The place of each of torch's image axes in an image with channels last."""


class Value(NamedTuple):
    """The result of a torch operation.

    Attributes:
        tensor: of torch's shape, or (B, H, W, C) for images (B, C, H, W) stored with channels last.
        images: whether it is such images.
    """

    tensor: Tensor
    images: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in torch's order of axes."""
        shape = self.tensor.shape
        return tuple(shape[axis] for axis in _FIRST) if self.images else shape


class PerSample(NamedTuple):
    """A whole number that grows with the batch: ``number`` per sample."""

    number: int


def plain(graph: Graph, value: Value) -> Tensor:
    """The tensor in torch's order of axes."""
    return graph.transpose(value.tensor, _FIRST) if value.images else value.tensor


def images(graph: Graph, value: Value) -> Tensor:
    """The tensor of images (B, C, H, W) with their channels last."""
    return value.tensor if value.images else graph.transpose(value.tensor, _LAST)


def sizes(shape: Sequence[Any]) -> list[Any]:
    """A shape as `Graph` writes it; None stays None."""
    return [-size.number if isinstance(size, PerSample) else size for size in shape]


def count(shape: Sequence[int]) -> int | PerSample:
    """How many entries a tensor of this shape has."""
    number = entries(shape)
    return PerSample(-number) if number < 0 else number


def scalar(graph: Graph, value: Any, dtype: str = "float32") -> Tensor:
    """A number, known or growing with the batch, as a tensor; a tensor is returned as it is."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, PerSample):
        return graph.scaled(graph.batch(), float(value.number))
    return graph.constant(value, dtype)


def valued(graph: Graph, value: Any, dtype: str = "float32") -> Value:
    """A `Value` as it is, and a number turned into one."""
    return value if isinstance(value, Value) else Value(scalar(graph, value, dtype))


def aligned(graph: Graph, values: Sequence[Value]) -> tuple[list[Tensor], bool]:
    """Tensors for an elementwise operation, in one layout, and whether its result is images with channels last."""
    if not any(value.images for value in values):
        return [value.tensor for value in values], False
    return [value.tensor if value.images or not value.shape else _as_images(graph, value) for value in values], True


def _as_images(graph: Graph, value: Value) -> Tensor:
    rank = len(value.shape)
    if rank > 4:
        raise NotImplementedError(f"images together with a tensor of shape {value.shape}")
    return graph.transpose(graph.reshape(value.tensor, (1,) * (4 - rank) + value.shape), _LAST)
