"""The operators of `graph.operators` in ONNX: the table of translations for `torch.onnx.export`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir
import torch
from onnxscript import opset18

import cutlayer_export.graph.tables  # noqa: F401 - registers an operator
from cutlayer_export.graph.operators import pooling_matrices
from cutlayer_export.onnx import convolution as onnx_convolution
from cutlayer_export.onnx import winners, winograd
from cutlayer_export.onnx.sums import sum_along
from cutlayer_export.onnx.values import integers, sizes

__all__ = ["TRANSLATIONS"]

op: Any = opset18
_FLOAT, _INT32, _DOUBLE, _UINT32 = 1, 6, 11, 12
"""Element types, by ONNX's numbers."""


def _floats(values: Any) -> Any:
    return op.Constant(value=onnx_ir.tensor(np.asarray(values, np.float32)))


def _relu_grad(dy: Any, y: Any) -> Any:
    return op.Mul(dy, op.Cast(op.Greater(y, _floats(0.0)), to=_FLOAT))


def _between_grad(dy: Any, x: Any, low: float, high: float) -> Any:
    inside = op.And(op.Greater(x, _floats(low)), op.Less(x, _floats(high)))
    return op.Mul(dy, op.Cast(inside, to=_FLOAT))


def _channel_sum(x: Any) -> Any:
    rank = len(x.shape)
    inner = op.ReduceSum(x, integers(range(2, rank)), keepdims=0) if rank > 2 else x
    return op.ReduceSum(inner, integers([0]), keepdims=0)


def _scale_shift(x: Any, scale: Any, shift: Any) -> Any:
    # The only operation that scales and shifts in a single pass over x.
    channels = sizes(scale)[0]
    return op.BatchNormalization(x, scale, shift, _floats(np.zeros(channels)), _floats(np.ones(channels)), epsilon=0.0)


def _scale_channels(x: Any, scale: Any) -> Any:
    return op.Mul(x, op.Reshape(scale, integers([1, -1] + [1] * (len(x.shape) - 2))))


def _batch_norm_train(x: Any, weight: Any, bias: Any, epsilon: float) -> Any:
    # The runtime overwrites the running statistics that it is given, so it gets tensors that nobody else reads. With a
    # momentum of 0 their values do not matter.
    scratch = op.Neg(weight), op.Neg(bias)
    return op.BatchNormalization(x, weight, bias, *scratch, training_mode=1, momentum=0.0, epsilon=epsilon)


def _max_pool(
    x: Any, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], ceil: bool
) -> Any:
    geometry = {"kernel_shape": kernel, "strides": stride, "pads": [*padding, *padding], "dilations": dilation}
    return op.MaxPool(x, **geometry, ceil_mode=int(ceil))[0]


def _max_pool_grad(
    dy: Any,
    x: Any,
    y: Any,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil: bool,
) -> Any:
    geometry = {"kernel_shape": kernel, "strides": stride, "pads": [*padding, *padding], "dilations": dilation}
    _, positions = op.MaxPool(x, **geometry, ceil_mode=int(ceil))
    # Positions are indices into the whole flattened tensor.
    zeros = op.Mul(op.Reshape(x, integers([-1])), _floats(0.0))
    flat = op.ScatterElements(
        zeros, op.Reshape(positions, integers([-1])), op.Reshape(dy, integers([-1])), axis=0, reduction="add"
    )
    return op.Reshape(flat, op.Shape(x))


def _average_pool_grad(dy: Any, size: Sequence[int], shares: Sequence[float]) -> Any:
    matrices = [np.asarray(matrix) for matrix in pooling_matrices(dy, size, shares)]
    rank = len(dy.shape)
    for axis, matrix in zip(range(rank - len(size), rank), matrices, strict=True):
        if axis == rank - 1:
            dy = op.MatMul(dy, _floats(matrix))
        elif axis == rank - 2:
            dy = op.MatMul(_floats(matrix.T), dy)
        else:
            order = [*range(axis), *range(axis + 1, rank), axis]
            moved = op.MatMul(op.Transpose(dy, perm=order), _floats(matrix))
            dy = op.Transpose(moved, perm=[order.index(each) for each in range(rank)])
    return dy


def _embedding_grad(dy: Any, indices: Any, rows: int, padding_index: int) -> Any:
    table = op.ConstantOfShape(integers([rows, sizes(dy)[-1]]), value=onnx_ir.tensor(np.zeros(1, np.float32)))
    return _embedding_grad_onto(table, dy, indices, padding_index)


def _embedding_grad_onto(base: Any, dy: Any, indices: Any, padding_index: int) -> Any:
    width = sizes(dy)[-1]
    flat = op.Reshape(indices, integers([-1, 1]))
    updates = op.Reshape(dy, integers([-1, width]))
    if padding_index >= 0:
        updates = op.Mul(updates, op.Cast(op.Not(op.Equal(flat, integers([padding_index]))), to=_FLOAT))
    # Not ScatterND: onnxruntime runs it in parallel, and rows that occur twice lose updates.
    return op.ScatterElements(base, op.Expand(flat, op.Shape(updates)), updates, axis=0, reduction="add")


def _rows_grad_onto(base: Any, dy: Any, first: Any, rest: Any, places: Any) -> Any:
    flat = op.Reshape(dy, integers([-1, sizes(dy)[-1]]))
    again = op.Gather(flat, rest, axis=0)
    # Few rows occur again, and this operation is slow, but right where rows occur often; see `_embedding_grad_onto`.
    rows = op.Expand(op.Unsqueeze(places, integers([1])), op.Shape(again))
    total = op.Add(base, op.Gather(flat, first, axis=0))
    return op.ScatterElements(total, rows, again, axis=0, reduction="add")


def _bernoulli(seed: Any, like: Any, probability: float, stream: int) -> Any:
    drawn = _drawn(seed, like, stream, 1)
    kept = op.Cast(op.Less(drawn, _int32(min(round(probability * 2**31), 2**31 - 1))), to=_FLOAT)
    return op.Reshape(kept, op.Shape(like))


def _uniform(seed: Any, like: Any, stream: int) -> Any:
    odd = op.Add(op.Mul(_drawn(seed, like, stream, 9), _int32(2)), _int32(1))
    return op.Reshape(op.Mul(op.Cast(odd, to=_FLOAT), op.Constant(value_float=2.0**-24)), op.Shape(like))


def _drawn(seed: Any, like: Any, stream: int, shift: int) -> Any:
    """Random bits for each entry, of which the last ``shift`` are dropped, as a vector of int32."""
    start = op.Add(op.Cast(seed, to=_INT32), _int32(stream * 0x85EBCA77))
    key = _mixed(op.Add(_mixed(start), _int32(0x27D4EB2F)))
    counter = op.Range(_int32(0), op.Cast(op.Size(like), to=_INT32), _int32(1))
    bits = op.Cast(_mixed(op.Add(op.Mul(counter, _int32(0x9E3779B1)), key)), to=_UINT32)
    return op.Cast(op.BitShift(bits, _uint32(shift), direction="RIGHT"), to=_INT32)


def _one_minus_power(base: float, exponent: Any) -> Any:
    one, count = _float64(1.0), op.Cast(exponent, to=_DOUBLE)
    return op.Cast(op.Sub(one, op.Pow(_float64(base), count)), to=_FLOAT)


def _mixed(bits: Any) -> Any:
    """MurmurHash3's finalizer: int32 for products, which wrap; uint32 for shifts, which shift zeros in."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = op.Mul(_folded(bits, shift), _int32(factor))
    return _folded(bits, 16)


def _folded(bits: Any, shift: int) -> Any:
    unsigned = op.Cast(bits, to=_UINT32)
    return op.Cast(op.BitwiseXor(unsigned, op.BitShift(unsigned, _uint32(shift), direction="RIGHT")), to=_INT32)


def _float64(value: float) -> Any:
    return op.Constant(value=onnx_ir.tensor(np.array(value, np.float64)))


def _int64(value: int) -> Any:
    return op.Constant(value=onnx_ir.tensor(np.array(value, np.int64)))


def _int32(value: int) -> Any:
    return op.Constant(value=onnx_ir.tensor(np.array(value & 0xFFFFFFFF, np.uint32).view(np.int32)))


def _uint32(value: int) -> Any:
    return op.Constant(value=onnx_ir.tensor(np.array(value, np.uint32)))


_ours = torch.ops.cutlayer
TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.sum.dim_IntList: sum_along,
    _ours.average_pool_grad.default: _average_pool_grad,
    _ours.batch_norm_train.default: _batch_norm_train,
    _ours.bernoulli.default: _bernoulli,
    _ours.between_grad.default: _between_grad,
    _ours.channel_sum.default: _channel_sum,
    _ours.collect_lines.default: winograd.collect_lines,
    _ours.convolution_grad_input.default: onnx_convolution.grad_input,
    _ours.convolution_grad_weight.default: onnx_convolution.grad_weight,
    _ours.embedding_grad.default: _embedding_grad,
    _ours.embedding_grad_onto.default: _embedding_grad_onto,
    _ours.from_lines.default: winograd.from_lines,
    _ours.max_pool.default: _max_pool,
    _ours.max_pool_grad.default: _max_pool_grad,
    _ours.one_minus_power.default: _one_minus_power,
    _ours.pool_winners.default: winners.pool_winners,
    _ours.relu_grad.default: _relu_grad,
    _ours.rows_grad_onto.default: _rows_grad_onto,
    _ours.scale_channels.default: _scale_channels,
    _ours.scale_shift.default: _scale_shift,
    _ours.spread_lines.default: winograd.spread_lines,
    _ours.tile_correlations.default: winograd.tile_correlations,
    _ours.tile_products.default: winograd.tile_products,
    _ours.to_lines.default: winograd.to_lines,
    _ours.uniform.default: _uniform,
    _ours.unpool.default: winners.unpool,
}
