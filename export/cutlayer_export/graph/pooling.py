"""Decompositions of pooling and of its backward passes into the operators of `operators`: a table for tracing."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from cutlayer_export.graph import operators

__all__ = ["POOLING"]

aten = torch.ops.aten


def _max_pool(dims: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def geometry(
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> tuple[list[int], list[int], list[int], list[int], bool]:
        window = _each(kernel, dims)
        return window, _each(stride or window, dims), _each(padding, dims), _each(dilation, dims), ceil_mode

    def forward(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        # Autograd keeps the second result for the backward pass; ours wants the pooled values there, not positions.
        y = operators.max_pool(x, *geometry(*arguments))
        return y, y

    def backward(dy: Tensor, x: Tensor, *arguments: Any) -> Any:
        *rest, y = arguments
        return operators.max_pool_grad(dy, x, y, *geometry(*rest))

    return forward, backward


def _adaptive_max_pool(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    y = operators.max_pool(x, *_tiles(x, size))
    return y, y


def _adaptive_max_pool_backward(dy: Tensor, x: Tensor, y: Tensor) -> Any:
    return operators.max_pool_grad(dy, x, y, *_tiles(x, dy.shape[-2:]))


def _tiles(x: Tensor, size: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int], bool]:
    pairs = list(zip(x.shape[-len(size) :], size, strict=True))
    if any(full % out for full, out in pairs):
        raise NotImplementedError(f"aten.adaptive_max_pool of {tuple(x.shape[-len(size) :])} to {tuple(size)}")
    window = [full // out for full, out in pairs]
    return window, window, [0] * len(window), [1] * len(window), False


def _average_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Any:
    """Decompose average pooling with a divisor of its own, which ONNX lacks; the rest stays a single operation."""
    if divisor is None:
        return NotImplemented
    if ceil_mode:
        raise NotImplementedError("aten.avg_pool2d with ceil_mode and divisor_override")
    window = _each(kernel, x.dim() - 2)
    return aten.avg_pool2d(x, window, stride, padding, False, True) * (prod(window) / divisor)


def _average_pool_backward(
    dy: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_padding: bool,
    divisor: int | None,
) -> Any:
    dims = x.dim() - 2
    window, margin = _each(kernel, dims), _each(padding, dims)
    step = _each(stride or window, dims)
    shares = list[float]()
    for axis, full in enumerate(x.shape[2:]):
        for out in range(dy.shape[2 + axis]):
            start = out * step[axis] - margin[axis]
            end = min(start + window[axis], full + margin[axis])
            inside = range(max(start, 0), min(end, full))
            share = 1.0 if divisor else 1.0 / (end - start if count_padding else len(inside))
            shares += [share if place in inside else 0.0 for place in range(full)]
    dx = operators.average_pool_grad(dy, list(x.shape[2:]), shares)
    return dx / divisor if divisor else dx


def _adaptive_average_pool_backward(dy: Tensor, x: Tensor) -> Any:
    shares = list[float]()
    for full, size in zip(x.shape[2:], dy.shape[2:], strict=True):
        spans = [(out * full // size, -(-(out + 1) * full // size)) for out in range(size)]
        shares += [float(start <= at < end) / (end - start) for start, end in spans for at in range(full)]
    return operators.average_pool_grad(dy, list(x.shape[2:]), shares)


def _each(values: Sequence[int], dims: int) -> list[int]:
    return list(values) * (dims if len(values) == 1 else 1)


_MAX_POOL_2D, _MAX_POOL_3D = _max_pool(2), _max_pool(3)
POOLING: dict[Any, Callable[..., Any]] = {
    aten.max_pool2d_with_indices.default: _MAX_POOL_2D[0],
    aten.max_pool2d_with_indices_backward.default: _MAX_POOL_2D[1],
    aten.max_pool3d_with_indices.default: _MAX_POOL_3D[0],
    aten.max_pool3d_with_indices_backward.default: _MAX_POOL_3D[1],
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.adaptive_max_pool2d_backward.default: _adaptive_max_pool_backward,
    aten.avg_pool2d.default: _average_pool,
    aten.avg_pool2d_backward.default: _average_pool_backward,
    aten.avg_pool3d_backward.default: _average_pool_backward,
    aten._adaptive_avg_pool2d_backward.default: _adaptive_average_pool_backward,  # noqa: SLF001
    aten._adaptive_avg_pool3d_backward.default: _adaptive_average_pool_backward,  # noqa: SLF001
}
