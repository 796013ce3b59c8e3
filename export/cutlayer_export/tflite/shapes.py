"""Shapes of a graph's tensors, in which minus a number stands for so many entries per sample."""

import math
from collections.abc import Sequence

__all__ = ["Shape", "broadcast", "entries"]

Shape = tuple[int, ...]


def entries(shape: Sequence[int]) -> int:
    """How many entries a tensor of this shape has; negative if that is a number per sample."""
    if sum(size < 0 for size in shape) > 1:
        raise NotImplementedError(f"a tensor with the batch in two of its dimensions, {tuple(shape)}")
    return math.prod(shape)


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an elementwise operation on tensors of these shapes."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True))
