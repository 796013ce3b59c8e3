"""Backward operations that no inference runtime knows, in terms of forward operations that every one knows.

Each is plain torch, so a test compares it with autograd, without a runtime in between.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions

__all__ = ["avg_pool2d_backward", "convolution_backward", "decompositions", "max_pool2d_backward"]

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The table for `make_fx`: torch's own decompositions to core ATen, and ours."""
    table: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    # The forward of batch norm too: the exporter takes the whole operation for its inference form.
    batch_norm = [aten.native_batch_norm, aten._native_batch_norm_legit, aten._native_batch_norm_legit_functional]  # noqa: SLF001
    table |= get_decompositions([aten.threshold_backward, aten.native_batch_norm_backward, *batch_norm])
    table[aten.convolution_backward.default] = convolution_backward
    table[aten.max_pool2d_with_indices_backward.default] = max_pool2d_backward
    table[aten.avg_pool2d_backward.default] = avg_pool2d_backward
    # Where a kernel asks for memory to write to (SiLU's backward does), what it holds before does not matter.
    table[aten.empty_permuted.default] = lambda size, _layout, **_options: torch.zeros(size)
    return table


def convolution_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of a convolution for its input, weight and bias, as a transposed and an ordinary convolution.

    Shapes: dy (B, O, *out), x (B, I, *in), weight (O, I / groups, *kernel). For the weight, batch and channels change
    places: x is the input and dy the kernel, and stride and dilation swap their roles.

    Raises:
        NotImplementedError: a transposed convolution.
    """
    if transposed:
        raise NotImplementedError("the backward pass of a transposed convolution")
    dims = range(2, x.dim())
    dx = dw = db = None
    if output_mask[0]:
        geometry = zip(stride, padding, dilation, strict=True)
        missing = [
            x.shape[d] - ((dy.shape[d] - 1) * s - 2 * p + dil * (weight.shape[d] - 1) + 1)
            for d, (s, p, dil) in zip(dims, geometry, strict=True)
        ]
        dx = aten.convolution(dy, weight, None, stride, padding, dilation, True, missing, groups)
    if output_mask[1]:
        batch, channels, size = x.shape[0], x.shape[1] // groups, x.shape[2:]
        x_grouped = x.reshape(batch, groups, channels, *size).transpose(0, 2).reshape(channels, groups * batch, *size)
        no_padding = [0] * len(dims)
        dw = aten.convolution(x_grouped, dy.transpose(0, 1), None, dilation, padding, stride, False, no_padding, groups)
        for d in dims:  # a stride that does not divide the input leaves rows that the kernel never saw
            dw = dw.narrow(d, 0, weight.shape[d])
        dw = dw.transpose(0, 1)
    if output_mask[2]:
        db = dy.sum([0, *dims])
    return dx, dw, db


def max_pool2d_backward(
    dy: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Gradient of max pooling for its input: each entry of dy (B, C, OH, OW) is added where its maximum came from."""
    flat = torch.zeros_like(x).flatten(-2)
    return flat.scatter_add(-1, indices.flatten(-2), dy.flatten(-2)).reshape(x.shape)


def avg_pool2d_backward(
    dy: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Gradient of average pooling for its input: dy (B, C, OH, OW) spread evenly, as a transposed convolution with ones.

    Raises:
        NotImplementedError: windows of unequal counts (ceil_mode, or padding that is not counted).
    """
    if ceil_mode or (any(padding) and not count_include_pad):
        raise NotImplementedError("the backward pass of average pooling with ceil_mode or uncounted padding")
    kernel = list(kernel_size) * (2 // len(kernel_size))
    step, margin = (list(each or kernel) * (2 // len(each or kernel)) for each in (stride, padding or [0]))
    ones = x.new_full((x.shape[1], 1, *kernel), 1.0 / (divisor_override or kernel[0] * kernel[1]))
    missing = [x.shape[2 + d] - ((dy.shape[2 + d] - 1) * step[d] - 2 * margin[d] + kernel[d]) for d in range(2)]
    dx: Tensor = aten.convolution(dy, ones, None, step, margin, [1, 1], True, missing, x.shape[1])
    return dx
