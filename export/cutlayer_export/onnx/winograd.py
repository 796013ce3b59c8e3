"""The operators of `graph.winograd` in ONNX; shapes are there."""

from typing import Any

from onnxscript import opset18

import cutlayer_export.onnx.lines  # noqa: F401 - registers the operators
from cutlayer_export.graph.toom_cook import PATCH
from cutlayer_export.onnx.values import integers, sizes

__all__ = ["collect_lines", "from_lines", "spread_lines", "tile_correlations", "tile_products", "to_lines"]

op: Any = opset18


def to_lines(x: Any) -> Any:
    """See `onnx.lines`."""
    channels, height, width = sizes(x)[1:]
    turned = op.Transpose(op.Reshape(x, integers([-1, height, width])), perm=[1, 0, 2])
    return op.Reshape(turned, integers([-1, channels, width]))


def from_lines(lines: Any, height: int) -> Any:
    """See `onnx.lines`."""
    channels, width = sizes(lines)[1:]
    turned = op.Transpose(op.Reshape(lines, integers([height, -1, width])), perm=[1, 0, 2])
    return op.Reshape(turned, integers([-1, channels, height, width]))


def spread_lines(lines: Any, rows: Any, columns: Any) -> Any:
    """See `graph.winograd.spread`."""
    (channels, width), (tall, height), wide = sizes(lines)[1:], sizes(rows), sizes(columns)[0]
    # onnxruntime reads the transpose of the last two axes of a product's input while it multiplies.
    turned = op.Transpose(op.Reshape(lines, integers([height, -1, width])), perm=[0, 2, 1])
    spread = op.MatMul(columns, turned)  # (H, Q, B * C)
    spread = op.MatMul(rows, op.Reshape(spread, integers([height, -1])))
    return op.Reshape(spread, integers([tall, wide, -1, channels]))


def collect_lines(y: Any, rows: Any, columns: Any) -> Any:
    """See `graph.winograd.collect`."""
    (tall, wide, _, channels), (_, height), (_, width) = sizes(y), sizes(rows), sizes(columns)
    lines = op.MatMul(op.Transpose(rows, perm=[1, 0]), op.Reshape(y, integers([tall, -1])))
    lines = op.Transpose(op.Reshape(lines, integers([height, wide, -1])), perm=[0, 2, 1])
    return op.Reshape(op.MatMul(lines, columns), integers([-1, channels, width]))  # (H * B, C, W)


def tile_products(x: Any, weight: Any, backward: bool) -> Any:
    """See `graph.winograd.tile_products`."""
    (tall, wide, _, channels), (*_, outputs, inputs) = sizes(x), sizes(weight)
    tiles = op.Reshape(x, integers([PATCH, tall // PATCH, PATCH, -1, channels]))
    each = op.Reshape(weight, integers([PATCH, 1, PATCH, outputs, inputs]))
    mixed = op.MatMul(tiles, each if backward else op.Transpose(each, perm=[0, 1, 2, 4, 3]))
    return op.Reshape(mixed, integers([tall, wide, -1, inputs if backward else outputs]))


def tile_correlations(dy: Any, x: Any) -> Any:
    """See `graph.winograd.tile_correlations`."""
    (tall, _, _, outputs), inputs = sizes(dy), sizes(x)[3]
    left, right = (op.Reshape(each, integers([tall, PATCH, -1, n])) for each, n in ((dy, outputs), (x, inputs)))
    return op.MatMul(op.Transpose(left, perm=[0, 1, 3, 2]), right)
