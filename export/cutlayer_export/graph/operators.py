"""Operators of a training graph that no inference runtime has, each defined by what torch computes for it.

Backward operations are kept whole while a graph is traced, since the best way to compute one depends on shapes and on
the runtime. Each writer has its own translation (for ONNX in `onnx.convolution` and `onnx.operators`), and tests
compare the translations with what torch computes here.

Shapes: images (B, C, *size), convolution weights (O, I / groups, *kernel); transposed ones (I, O / groups, *kernel).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

__all__ = [
    "average_pool_grad",
    "batch_norm_train",
    "between_grad",
    "channel_sum",
    "convolution_grad_input",
    "convolution_grad_weight",
    "embedding_grad",
    "embedding_grad_onto",
    "max_pool",
    "max_pool_grad",
    "one_minus_power",
    "pooling_matrices",
    "relu_grad",
    "scale_channels",
    "scale_shift",
]

aten = torch.ops.aten


@custom_op("cutlayer::convolution_grad_input", mutates_args=())
def convolution_grad_input(
    dy: Tensor,
    weight: Tensor,
    size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor:
    """Gradient of a convolution with respect to its input, whose spatial ``size`` is given."""
    x = dy.new_zeros(_input_shape(dy, weight, size, transposed, groups))
    arguments = (stride, padding, dilation, transposed, output_padding, groups)
    dx: Tensor = aten.convolution_backward(dy, x, weight, None, *arguments, [True, False, False])[0]
    return dx


@convolution_grad_input.register_fake
def _(dy: Tensor, weight: Tensor, size: list[int], *geometry: Any) -> Tensor:
    *_, transposed, _, groups = geometry
    return dy.new_empty(_input_shape(dy, weight, size, transposed, groups))


def _input_shape(dy: Tensor, weight: Tensor, size: list[int], transposed: bool, groups: int) -> list[int]:
    return [dy.shape[0], weight.shape[0] if transposed else weight.shape[1] * groups, *size]


@custom_op("cutlayer::convolution_grad_weight", mutates_args=())
def convolution_grad_weight(
    x: Tensor,
    dy: Tensor,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor:
    """Gradient of a convolution with respect to its weight, whose ``shape`` is given."""
    arguments = (stride, padding, dilation, transposed, output_padding, groups)
    dw: Tensor = aten.convolution_backward(dy, x, dy.new_zeros(shape), None, *arguments, [False, True, False])[1]
    return dw


@convolution_grad_weight.register_fake
def _(x: Tensor, dy: Tensor, shape: list[int], *geometry: Any) -> Tensor:
    return dy.new_empty(shape)


@custom_op("cutlayer::relu_grad", mutates_args=())
def relu_grad(dy: Tensor, y: Tensor) -> Tensor:
    """Gradient of ReLU, given its result y."""
    return dy * (y > 0)


@relu_grad.register_fake
def _(dy: Tensor, y: Tensor) -> Tensor:
    return torch.empty_like(dy, memory_format=torch.contiguous_format)


@custom_op("cutlayer::between_grad", mutates_args=())
def between_grad(dy: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """Gradient of clamping to ``low`` and ``high``, as ReLU6 does."""
    return dy * ((x > low) & (x < high)).to(dy.dtype)


@between_grad.register_fake
def _(dy: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    return torch.empty_like(dy, memory_format=torch.contiguous_format)


@custom_op("cutlayer::channel_sum", mutates_args=())
def channel_sum(x: Tensor) -> Tensor:
    """Sum over everything but channels: (B, C, ...) to (C,)."""
    return x.sum([0, *range(2, x.dim())])


@channel_sum.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1])


@custom_op("cutlayer::scale_shift", mutates_args=())
def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * x + shift`` with one scale and shift per channel: (B, C, ...), (C,), (C,) to (B, C, ...)."""
    broadcast = [1, -1] + [1] * (x.dim() - 2)
    return x * scale.view(broadcast) + shift.view(broadcast)


@scale_shift.register_fake
def _(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@custom_op("cutlayer::scale_channels", mutates_args=())
def scale_channels(x: Tensor, scale: Tensor) -> Tensor:
    """``scale * x`` with one scale per channel: (B, C, ...), (C,) to (B, C, ...)."""
    return x * scale.view([1, -1] + [1] * (x.dim() - 2))


@scale_channels.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@custom_op("cutlayer::batch_norm_train", mutates_args=())
def batch_norm_train(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """BatchNorm with the batch's own statistics: the result, and the mean and biased variance of each channel."""
    axes = [0, *range(2, x.dim())]
    mean, variance = x.mean(axes), x.var(axes, unbiased=False)
    return torch.nn.functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, epsilon), mean, variance


@batch_norm_train.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(weight),
        torch.empty_like(weight),
    )


@custom_op("cutlayer::max_pool", mutates_args=())
def max_pool(
    x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> Tensor:
    """Max pooling over as many trailing dimensions as ``kernel`` has."""
    return _pooled(x, kernel, stride, padding, dilation, ceil_mode)[0]


@max_pool.register_fake
def _(x: Tensor, *geometry: Any) -> Tensor:
    return torch.empty_like(_pooled(x, *geometry)[0])


@custom_op("cutlayer::max_pool_grad", mutates_args=())
def max_pool_grad(
    dy: Tensor,
    x: Tensor,
    y: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> Tensor:
    """Gradient of `max_pool` for x, given the result y: each entry of dy goes to the first maximum of its window."""
    dims = len(kernel)
    positions = _pooled(x, kernel, stride, padding, dilation, ceil_mode)[1].flatten(-dims)
    return torch.zeros_like(x).flatten(-dims).scatter_add(-1, positions, dy.flatten(-dims)).reshape(x.shape)


@max_pool_grad.register_fake
def _(dy: Tensor, x: Tensor, y: Tensor, *geometry: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _pooled(
    x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> tuple[Tensor, Tensor]:
    pool = {2: aten.max_pool2d_with_indices, 3: aten.max_pool3d_with_indices}[len(kernel)]
    y, positions = pool(x, kernel, stride, padding, dilation, ceil_mode)
    return y, positions


@custom_op("cutlayer::average_pool_grad", mutates_args=())
def average_pool_grad(dy: Tensor, size: list[int], shares: list[float]) -> Tensor:
    """Gradient of any average pooling over trailing dimensions, with respect to its input of spatial ``size``.

    ``shares`` holds one matrix (output size, input size) per pooled dimension, row by row, one after the other: the
    share that each input has in each output. dx is dy multiplied by all of these matrices.
    """
    for axis, matrix in zip(range(dy.dim() - len(size), dy.dim()), pooling_matrices(dy, size, shares), strict=True):
        dy = torch.movedim(torch.movedim(dy, axis, -1) @ dy.new_tensor(matrix), -1, axis)
    return dy.contiguous()


@average_pool_grad.register_fake
def _(dy: Tensor, size: list[int], shares: list[float]) -> Tensor:
    return dy.new_empty([*dy.shape[: dy.dim() - len(size)], *size])


def pooling_matrices(dy: Any, size: Sequence[int], shares: Sequence[float]) -> list[list[list[float]]]:
    """The matrices (output size, input size) that `average_pool_grad` is given; only the shape of dy is used."""
    matrices, at = [], 0
    for full, out in zip(size, dy.shape[-len(size) :], strict=True):
        matrices.append([list(shares[at + row * full : at + (row + 1) * full]) for row in range(out)])
        at += out * full
    return matrices


@custom_op("cutlayer::embedding_grad", mutates_args=())
def embedding_grad(dy: Tensor, indices: Tensor, rows: int, padding_index: int) -> Tensor:
    """Gradient of an embedding with respect to its table of ``rows``: (..., W) and (...) to (rows, W)."""
    table: Tensor = aten.embedding_dense_backward(dy, indices, rows, padding_index, False)
    return table


@embedding_grad.register_fake
def _(dy: Tensor, indices: Tensor, rows: int, padding_index: int) -> Tensor:
    return dy.new_empty([rows, dy.shape[-1]])


@custom_op("cutlayer::embedding_grad_onto", mutates_args=())
def embedding_grad_onto(base: Tensor, dy: Tensor, indices: Tensor, padding_index: int) -> Tensor:
    """``base`` plus `embedding_grad`, without a table of zeros in between."""
    onto: Tensor = base + aten.embedding_dense_backward(dy, indices, base.shape[0], padding_index, False)
    return onto


@embedding_grad_onto.register_fake
def _(base: Tensor, dy: Tensor, indices: Tensor, padding_index: int) -> Tensor:
    return torch.empty_like(base)


@custom_op("cutlayer::one_minus_power", mutates_args=())
def one_minus_power(base: float, exponent: Tensor) -> Tensor:
    """``1 - base ** exponent`` in float32, for a scalar int64 exponent: what Adam divides its moments by.

    Computed in float32 alone, it would lose most of its digits where base is near 1 and the exponent is small.
    """
    count = exponent.to(torch.float64)
    return (1.0 - torch.pow(torch.full_like(count, base), count)).to(torch.float32)


@one_minus_power.register_fake
def _(base: float, exponent: Tensor) -> Tensor:
    return torch.empty_like(exponent, dtype=torch.float32)
