"""The operators of `operators` in ONNX, for `torch.onnx.export`: the table of translations."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir
import torch
from onnxscript import opset18

from cutlayer_export import onnx_convolution
from cutlayer_export.onnx_convolution import integers, sizes
from cutlayer_export.operators import pooling_matrices

__all__ = ["TRANSLATIONS"]

op: Any = opset18
_FLOAT, _INT32, _UINT32 = 1, 6, 12
"""Element types, by ONNX's numbers."""


def _floats(values: Any) -> Any:
    return op.Constant(value=onnx_ir.tensor(np.asarray(values, np.float32)))


def _relu_grad(dy: Any, y: Any) -> Any:
    return op.Mul(dy, op.Cast(op.Greater(y, _floats(0.0)), to=_FLOAT))


def _channel_sum(x: Any) -> Any:
    rank = len(x.shape)
    inner = op.ReduceSum(x, integers(range(2, rank)), keepdims=0) if rank > 2 else x
    return op.ReduceSum(inner, integers([0]), keepdims=0)


def _scale_shift(x: Any, scale: Any, shift: Any) -> Any:
    # The one operation that does both in a single pass over x.
    channels = sizes(scale)[0]
    return op.BatchNormalization(x, scale, shift, _floats(np.zeros(channels)), _floats(np.ones(channels)), epsilon=0.0)


def _scale_channels(x: Any, scale: Any) -> Any:
    return op.Mul(x, op.Reshape(scale, integers([1, -1] + [1] * (len(x.shape) - 2))))


def _batch_norm_train(x: Any, weight: Any, bias: Any, epsilon: float) -> Any:
    # The runtime writes the statistics where it found the running ones, so it is given tensors that nobody else reads.
    # With a momentum of 0 their values do not matter.
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
    size, out = sizes(x)[-len(kernel) :], sizes(y)[-len(kernel) :]
    tiled = [k * o for k, o in zip(kernel, out, strict=True)] == size and list(kernel) == list(stride)
    if tiled and len(kernel) == 2 and kernel[0] == kernel[1] and max(dilation) == 1 and kernel[0] <= 3:
        return _unpool_tiles(dy, x, y, kernel[0])
    geometry = {"kernel_shape": kernel, "strides": stride, "pads": [*padding, *padding], "dilations": dilation}
    _, positions = op.MaxPool(x, **geometry, ceil_mode=int(ceil))
    # Positions count through the whole tensor.
    zeros = op.Mul(op.Reshape(x, integers([-1])), _floats(0.0))
    flat = op.ScatterElements(
        zeros, op.Reshape(positions, integers([-1])), op.Reshape(dy, integers([-1])), axis=0, reduction="add"
    )
    return op.Reshape(flat, op.Shape(x))


def _unpool_tiles(dy: Any, x: Any, y: Any, window: int) -> Any:
    """Windows beside each other: compare each place in them with the maximum, and give dy to the first that has it."""
    channels, out = sizes(y)[1], sizes(y)[2:]
    places = window * window
    taken, parts = None, []
    for tile in op.Split(op.SpaceToDepth(x, blocksize=window), axis=1, num_outputs=places):
        found = op.Equal(tile, y)
        first = found if taken is None else op.And(found, op.Not(taken))
        taken = found if taken is None else op.Or(taken, found)
        part = op.Mul(dy, op.Cast(first, to=_FLOAT))
        parts.append(op.Reshape(part, integers([-1, channels, 1, *out])))
    stacked = op.Reshape(op.Concat(*parts, axis=2), integers([-1, channels * places, *out]))
    # Back to their places: a transposed convolution that copies is faster here than DepthToSpace.
    copies = np.tile(np.eye(places).reshape(places, 1, window, window), (channels, 1, 1, 1))
    return op.ConvTranspose(stacked, _floats(copies), strides=[window, window], group=channels)


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
    return op.ScatterND(base, flat, updates, reduction="add")


def _bernoulli(seed: Any, like: Any, probability: float, stream: int) -> Any:
    start = op.Add(op.Cast(seed, to=_INT32), _int32(stream * 0x85EBCA77))
    key = _mixed(op.Add(_mixed(start), _int32(0x27D4EB2F)))
    count = op.Cast(op.Size(like), to=_INT32)
    counter = op.Range(_int32(0), count, _int32(1))
    bits = op.Cast(_mixed(op.Add(op.Mul(counter, _int32(0x9E3779B1)), key)), to=_UINT32)
    drawn = op.Cast(op.BitShift(bits, _uint32(1), direction="RIGHT"), to=_INT32)
    kept = op.Cast(op.Less(drawn, _int32(min(round(probability * 2**31), 2**31 - 1))), to=_FLOAT)
    return op.Reshape(kept, op.Shape(like))


def _mixed(bits: Any) -> Any:
    """MurmurHash3's finalizer: int32 for products, which wrap; uint32 for shifts, which shift zeros in."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = op.Mul(_folded(bits, shift), _int32(factor))
    return _folded(bits, 16)


def _folded(bits: Any, shift: int) -> Any:
    unsigned = op.Cast(bits, to=_UINT32)
    return op.Cast(op.BitwiseXor(unsigned, op.BitShift(unsigned, _uint32(shift), direction="RIGHT")), to=_INT32)


def _int32(value: int) -> Any:
    return op.Constant(value=onnx_ir.tensor(np.array(value & 0xFFFFFFFF, np.uint32).view(np.int32)))


def _uint32(value: int) -> Any:
    return op.Constant(value=onnx_ir.tensor(np.array(value, np.uint32)))


_ours = torch.ops.cutlayer
TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    _ours.average_pool_grad.default: _average_pool_grad,
    _ours.batch_norm_train.default: _batch_norm_train,
    _ours.bernoulli.default: _bernoulli,
    _ours.channel_sum.default: _channel_sum,
    _ours.convolution_grad_input.default: onnx_convolution.grad_input,
    _ours.convolution_grad_weight.default: onnx_convolution.grad_weight,
    _ours.embedding_grad.default: _embedding_grad,
    _ours.embedding_grad_onto.default: _embedding_grad_onto,
    _ours.max_pool.default: _max_pool,
    _ours.max_pool_grad.default: _max_pool_grad,
    _ours.relu_grad.default: _relu_grad,
    _ours.scale_channels.default: _scale_channels,
    _ours.scale_shift.default: _scale_shift,
}
