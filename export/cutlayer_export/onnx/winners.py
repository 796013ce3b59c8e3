"""The operators of `graph.winners` as ONNX operations; shapes are there."""

from typing import Any

import numpy as np
import onnx_ir
from onnxscript import opset18

from cutlayer_export.graph.winners import NONE
from cutlayer_export.onnx.values import INT64, integers, sizes

__all__ = ["pool_winners", "unpool"]

op: Any = opset18
_FLOAT = 1


def pool_winners(x: Any, y: Any, positive: bool) -> Any:
    """See `graph.winners`.

    The runtime's pooling is slow when it has to return positions, so they are derived from the greatest values of the
    whole window, its first place, its first row and its first column.
    """
    first, row, column = (op.MaxPool(x, kernel_shape=part, strides=[2, 2])[0] for part in ([1, 1], [1, 2], [2, 1]))
    in_first_row = op.Where(op.Less(first, y), _byte(1), _byte(0))
    in_second_row = op.Where(op.Less(column, y), _byte(3), _byte(2))
    place = op.Where(op.Less(row, y), in_second_row, in_first_row)
    return op.Where(op.Greater(y, _float(0.0)), place, _byte(NONE)) if positive else place


def unpool(dy: Any, winners: Any) -> Any:
    """See `graph.winners`."""
    channels, height, width = sizes(dy)[1:]
    place = op.Cast(winners, to=_FLOAT)
    in_second_row = _number(op.Less(_float(1.0), place))
    offset = op.Add(place, op.Mul(in_second_row, _float(2.0 * width - 2.0)))
    lives = _number(op.Less(place, _float(NONE)))
    # Indices into the whole flattened result. What goes nowhere is zero, and is put into the window's first place.
    corners = np.arange(4 * channels * height * width).reshape(1, channels, 2 * height, 2 * width)[..., ::2, ::2]
    batch = op.Squeeze(op.Shape(dy, start=0, end=1))
    samples = op.Mul(op.Range(_whole(0), batch, _whole(1)), _whole(4 * channels * height * width))
    in_sample = op.Add(op.Cast(op.Mul(offset, lives), to=INT64), integers(corners))
    positions = op.Add(in_sample, op.Reshape(samples, integers([-1, 1, 1, 1])))
    return op.MaxUnpool(op.Mul(dy, lives), positions, kernel_shape=[2, 2], strides=[2, 2])


def _number(condition: Any) -> Any:
    return op.Cast(condition, to=_FLOAT)


def _byte(value: int) -> Any:
    return op.Constant(value=onnx_ir.tensor(np.array(value, np.uint8)))


def _float(value: float) -> Any:
    return op.Constant(value_float=float(value))


def _whole(value: int) -> Any:
    return op.Constant(value_int=value)
