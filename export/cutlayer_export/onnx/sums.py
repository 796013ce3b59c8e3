"""Sums over the first axes in ONNX.

Where what is left is large, onnxruntime's ReduceSum over them takes longer on two threads than on one; a product with
ones does not.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir
from onnxscript import opset18

from cutlayer_export.onnx.values import INT64, integers, sizes

__all__ = ["sum_along", "sum_of_samples"]

op: Any = opset18
_LEAST_LEFT = 1 << 10
"""Entries that are left from which on a product is faster."""
_NO_TYPE = -1


def sum_along(x: Any, axes: Sequence[int] | None, keepdims: bool = False, dtype: int = _NO_TYPE) -> Any:
    """``aten.sum.dim_IntList``; like torch's, sums of whole numbers and booleans are int64."""
    shape = sizes(x)
    is_float, cast = x.dtype == onnx_ir.DataType.FLOAT, dtype != _NO_TYPE or not x.dtype.is_floating_point()
    if cast:
        x = op.Cast(x, to=INT64 if dtype == _NO_TYPE else dtype)
    if not shape:
        return op.Identity(x)
    over = sorted(axis % len(shape) for axis in axes or ()) or list(range(len(shape)))
    left = shape[len(over) :]
    leading = over == list(range(len(over)))
    if not leading or not is_float or cast or -1 in left or math.prod(left) < _LEAST_LEFT:
        return op.ReduceSum(x, integers(over), keepdims=int(keepdims))
    return sum_of_samples(x, [*[1] * (len(over) * keepdims), *left])


def sum_of_samples(x: Any, shape: Sequence[int]) -> Any:
    """The sum over the first axes of x, in this shape, whose size is that of the other axes."""
    rows = op.Reshape(x, integers([-1, math.prod(shape)]))
    count = op.Concat(integers([1]), op.Shape(rows, start=0, end=1), axis=0)
    ones = op.ConstantOfShape(count, value=onnx_ir.tensor(np.ones(1, np.float32)))
    return op.Reshape(op.MatMul(ones, rows), integers(shape))
