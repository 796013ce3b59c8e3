"""The operators of `graph.winograd` in ONNX; shapes are there."""

from typing import Any

from onnxscript import opset18

import cutlayer_export.graph.winograd  # noqa: F401 - registers the operators
from cutlayer_export.graph.toom_cook import PATCH
from cutlayer_export.onnx.convolution import integers, sizes

__all__ = ["collect", "spread", "tile_correlations", "tile_products"]

op: Any = opset18


def spread(x: Any, rows: Any, columns: Any) -> Any:
    """See `graph.winograd.spread`."""
    (_, channels, height, width), wide, tall = sizes(x), sizes(columns)[0], sizes(rows)[0]
    # onnxruntime reads the transpose of the last two axes of a product's input while it multiplies.
    lines = op.Transpose(op.Reshape(x, integers([-1, height, width])), perm=[1, 2, 0])
    lines = op.MatMul(columns, lines)  # (H, Q, B * C)
    spread_out = op.MatMul(rows, op.Reshape(lines, integers([height, -1])))
    return op.Reshape(spread_out, integers([tall, wide, -1, channels]))


def collect(y: Any, rows: Any, columns: Any) -> Any:
    """See `graph.winograd.collect`."""
    (tall, wide, _, channels), (_, height), (_, width) = sizes(y), sizes(rows), sizes(columns)
    lines = op.MatMul(op.Transpose(rows, perm=[1, 0]), op.Reshape(y, integers([tall, -1])))
    lines = op.Transpose(op.Reshape(lines, integers([height, wide, -1])), perm=[0, 2, 1])
    images = op.Transpose(op.MatMul(lines, columns), perm=[1, 0, 2])  # (B * C, H, W)
    return op.Reshape(images, integers([-1, channels, height, width]))


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
