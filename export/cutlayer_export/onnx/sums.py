"""Sums over the first axes in ONNX.

onnxruntime's ReduceSum over them takes 2 to 8 times as long on two threads as on one, where what is left is large; a
product with ones takes as long as on one. `benchmarks/convolutions.py` has the sums within convolutions.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir
from onnxscript import opset18

from cutlayer_export.onnx.values import integers, sizes

__all__ = ["sum_along", "sum_of_samples"]

op: Any = opset18
_LARGE = 1 << 10
"""Entries that are left from which on a product is faster."""
_NO_TYPE = -1
_INT64 = 7


def sum_along(x: Any, axes: Sequence[int], keepdims: bool = False, dtype: int = _NO_TYPE) -> Any:
    """``aten.sum.dim_IntList``; like torch's, sums of whole numbers and booleans are int64."""
    shape, kind = sizes(x), x.dtype
    over = sorted(axis % len(shape) for axis in axes) or list(range(len(shape)))
    if dtype != _NO_TYPE or not kind.is_floating_point():
        x, kind = op.Cast(x, to=_INT64 if dtype == _NO_TYPE else dtype), None
    left = shape[len(over) :]
    leading = over == list(range(len(over)))
    if not leading or kind != onnx_ir.DataType.FLOAT or -1 in left or math.prod(left) < _LARGE:
        return op.ReduceSum(x, integers(over), keepdims=int(keepdims))
    return sum_of_samples(x, [*[1] * (len(over) * keepdims), *left])


def sum_of_samples(x: Any, shape: Sequence[int]) -> Any:
    """The sum over the first axes of x, in this shape, whose size is that of the other axes."""
    rows = op.Reshape(x, integers([-1, math.prod(shape)]))
    count = op.Concat(integers([1]), op.Shape(rows, start=0, end=1), axis=0)
    ones = op.ConstantOfShape(count, value=onnx_ir.tensor(np.ones(1, np.float32)))
    return op.Reshape(op.MatMul(ones, rows), integers(shape))
