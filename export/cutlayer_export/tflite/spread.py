"""Spreads images out with zeros in between, and interleaves several images into one."""

from collections.abc import Sequence

from cutlayer_export.tflite.graph import Graph, Tensor

__all__ = ["interleave", "spread"]


def spread(graph: Graph, x: Tensor, stride: Sequence[int]) -> Tensor:
    """Insert zeros after each row and each column: (B, H, W, C) to (B, H * rows, W * columns, C)."""
    batch, height, width, channels = x.shape
    rows, columns = stride
    x = graph.pad(graph.reshape(x, (None, width, 1, channels)), [(0, 0), (0, 0), (0, columns - 1), (0, 0)])
    x = graph.pad(
        graph.reshape(x, (batch, height, 1, width * columns * channels)), [(0, 0), (0, 0), (0, rows - 1), (0, 0)]
    )
    return graph.reshape(x, (batch, height * rows, width * columns, channels))


def interleave(graph: Graph, grid: Sequence[Sequence[Tensor | None]], like: Tensor) -> Tensor:
    """Interleave a grid of images: entry (h, w) of the one in row r, column c goes to (h * rows + r, w * columns + c).

    All images have the shape of ``like``, (B, H, W, C); None stands for zeros.
    """
    batch, height, width, channels = like.shape
    columns, lines = len(grid[0]), []
    zeros = graph.times(like, graph.constant(0.0)) if any(each is None for row in grid for each in row) else None
    for row in grid:
        each = [graph.reshape(zeros if x is None else x, (None, width, 1, channels)) for x in row]  # type: ignore[arg-type]
        lines.append(graph.reshape(graph.concatenate(each, 2), (batch, height, 1, width * columns * channels)))
    return graph.reshape(graph.concatenate(lines, 2), (batch, height * len(grid), width * columns, channels))
