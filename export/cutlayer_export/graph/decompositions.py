"""Decompositions for tracing: torch's own into core ATen operations, and ours into the operators of `operators`."""

from collections.abc import Callable, Sequence
from math import pi, prod, sqrt
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, decomposition_table

from cutlayer_export.graph import operators
from cutlayer_export.graph.functions import FUNCTIONS
from cutlayer_export.graph.pooling import POOLING

__all__ = ["OURS", "decompositions"]

aten = torch.ops.aten
_KEPT = {
    aten.native_layer_norm.default,
    aten._softmax.default,  # noqa: SLF001
    aten._log_softmax.default,  # noqa: SLF001
    aten._native_batch_norm_legit_no_training.default,  # noqa: SLF001
}
"""Operations that runtimes have as a whole, which is faster than their parts."""


_MANY = 16


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The decomposition table for `make_fx`."""
    backward = {op: rule for op, rule in decomposition_table.items() if "backward" in str(op)}
    table: dict[Any, Callable[..., Any]] = {**backward, **core_aten_decompositions(), **OURS}
    return {op: rule for op, rule in table.items() if op not in _KEPT}


def _convolution_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias_sizes: Sequence[int] | None, *geometry: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    *arguments, (for_input, for_weight, for_bias) = geometry
    stride, padding, dilation, transposed, output_padding, groups = arguments
    arguments = [list(stride), list(padding), list(dilation), transposed, list(output_padding), groups]
    # The input's gradient comes last: until then its memory is free for what the weight's gradient needs.
    db = operators.channel_sum(dy) if for_bias else None
    dw = operators.convolution_grad_weight(x, dy, list(weight.shape), *arguments) if for_weight else None
    dx = operators.convolution_grad_input(dy, weight, list(x.shape[2:]), *arguments) if for_input else None
    return dx, dw, db


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """The result, the batch's mean and inverse deviation, and the updated running statistics."""
    channels = x.shape[1]
    ones, zeros = x.new_ones(channels), x.new_zeros(channels)
    weight, bias = ones if weight is None else weight, zeros if bias is None else bias
    if not training:
        assert mean is not None
        assert variance is not None
        y = aten._native_batch_norm_legit_no_training(x, weight, bias, mean, variance, momentum, epsilon)[0]  # noqa: SLF001
        return y, x.new_zeros(0), x.new_zeros(0), mean, variance
    if isinstance(channels, int):
        y, batch_mean, batch_variance = operators.batch_norm_train(x, weight, bias, epsilon)
    else:  # InstanceNorm folds the batch into the channels
        y, batch_mean, batch_variance = _normalised(x, weight, bias, epsilon)
    if mean is not None and variance is not None:
        count = x.numel() / channels
        mean = mean + momentum * (batch_mean - mean)
        variance = variance + momentum * (batch_variance * (count / (count - 1)) - variance)
    return y, batch_mean, torch.rsqrt(batch_variance + epsilon), mean, variance


def _normalised(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    axes, broadcast = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
    mean = x.mean(axes)
    centred = x - mean.view(broadcast)
    variance = (centred * centred).mean(axes)
    y = centred * torch.rsqrt(variance + epsilon).view(broadcast)
    return y * weight.view(broadcast) + bias.view(broadcast), mean, variance


def _native_batch_norm(x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, *rest: Any) -> Any:
    """BatchNorm in the form that updates its running statistics in place."""
    y, batch_mean, deviation, new_mean, new_variance = _batch_norm(x, weight, bias, mean, variance, *rest)
    if mean is not None and new_mean is not mean:
        mean.copy_(new_mean)
        variance.copy_(new_variance)
    return y, batch_mean, deviation


def _batch_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor,
    running_variance: Tensor,
    mean: Tensor,
    deviation: Tensor,
    training: bool,
    epsilon: float,
    mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Ioffe & Szegedy, arXiv 1502.03167, section 3, with all factors that are constant within a channel combined.

    dx = a (dy + b x + c) with three numbers per channel, so that no normalised copy of x is made, and the scale a can
    be left to the convolution before (see `rewrites`).
    """
    if not isinstance(x.shape[1], int):
        rule = decomposition_table[aten.native_batch_norm_backward.default]
        arguments = (running_mean, running_variance, mean, deviation, training, epsilon, mask)
        result: tuple[Tensor | None, Tensor | None, Tensor | None] = rule(dy, x, weight, *arguments)
        return result
    if not training:
        mean, deviation = running_mean, torch.rsqrt(running_variance + epsilon)
    a = deviation if weight is None else weight * deviation
    if not training and not mask[1]:
        return operators.scale_channels(dy, a), None, operators.channel_sum(dy) if mask[2] else None
    share = x.shape[1] / x.numel()
    db = operators.channel_sum(dy)
    if prod(x.shape[2:]) < _MANY:  # with few values the mean may be far greater than the deviation
        axes = [1, -1] + [1] * (x.dim() - 2)
        x = (x - mean.view(axes)) * deviation.view(axes)
        dw = operators.channel_sum(dy * x)
        b, c = -dw * share, -db * share
    else:
        dw = (operators.channel_sum(dy * x) - mean * db) * deviation
        b = -deviation * dw * share
        c = -db * share - b * mean
    dx = dy + operators.scale_shift(x, b, c) if training else dy
    return operators.scale_channels(dx, a) if mask[0] else None, dw if mask[1] else None, db if mask[2] else None


def _embedding_backward(dy: Tensor, indices: Tensor, rows: int, padding_index: int, by_frequency: bool) -> Any:
    if by_frequency:
        raise NotImplementedError("embedding with scale_grad_by_freq")
    return operators.embedding_grad(dy, indices, rows, padding_index)


def _weight_norm_backward(dw: Tensor, v: Tensor, g: Tensor, norms: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Gradients of ``w = g v / |v|`` (Salimans & Kingma, arXiv 1602.07868, equation 3)."""
    axes = [axis for axis in range(v.dim()) if axis != dim % v.dim()]
    shape = [size if axis == dim % v.dim() else 1 for axis, size in enumerate(v.shape)]
    norms, scale = norms.view(shape), g.view(shape)
    dg = (dw * v).sum(axes, keepdim=True) / norms
    return scale / norms * (dw - v * (dg / norms)), dg.view(g.shape)


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """Hendrycks & Gimpel, arXiv 1606.08415. The backward pass contains the same factor, which is computed only once."""
    if approximate != "none":
        y: Tensor = decomposition_table[aten.gelu.default](x, approximate=approximate)
        return y
    return x * _gelu_factor(x) * 0.5


def _gelu_backward(dy: Tensor, x: Tensor, approximate: str = "none") -> Tensor:
    if approximate != "none":
        dx: Tensor = decomposition_table[aten.gelu_backward.default](dy, x, approximate=approximate)
        return dx
    density = torch.exp(x * x * -0.5) * (x * (2.0 / sqrt(2.0 * pi)))
    return dy * 0.5 * (_gelu_factor(x) + density)


def _gelu_factor(x: Tensor) -> Tensor:
    """Twice the share of a normal distribution below x."""
    return torch.erf(x / sqrt(2.0)) + 1.0


def _roll(x: Tensor, shifts: Sequence[int], axes: Sequence[int] = ()) -> Tensor:
    """Roll by slicing and joining; torch's own decomposition indexes with computed numbers."""
    if not axes:
        return _roll(x.flatten(), shifts, [0]).view(x.shape)
    for shift, axis in zip(shifts, axes, strict=True):
        seam = -shift % x.shape[axis]
        if isinstance(seam, int) and seam == 0:
            continue
        x = torch.cat([x.narrow(axis, seam, x.shape[axis] - seam), x.narrow(axis, 0, seam)], axis)
    return x


def _threshold_backward(dy: Tensor, y: Tensor, threshold: float) -> Any:
    return operators.relu_grad(dy, y) if threshold == 0 else dy * (y > threshold).to(dy.dtype)


OURS: dict[Any, Callable[..., Any]] = {
    **FUNCTIONS,
    **POOLING,
    aten.convolution_backward.default: _convolution_backward,
    aten.native_batch_norm.default: _native_batch_norm,
    aten._native_batch_norm_legit.default: _native_batch_norm,  # noqa: SLF001
    aten._native_batch_norm_legit.no_stats: lambda x, w, b, *rest: _batch_norm(x, w, b, None, None, *rest)[:3],  # noqa: SLF001
    aten._native_batch_norm_legit_functional.default: _batch_norm,  # noqa: SLF001
    aten.native_batch_norm_backward.default: _batch_norm_backward,
    aten.embedding_dense_backward.default: _embedding_backward,
    aten._weight_norm_interface_backward.default: _weight_norm_backward,  # noqa: SLF001
    aten.gelu.default: _gelu,
    aten.gelu_backward.default: _gelu_backward,
    aten.roll.default: _roll,
    aten.threshold_backward.default: _threshold_backward,
    aten.hardtanh_backward.default: operators.between_grad,
    # A kernel may ask for memory to write to (SiLU's backward does); what that holds beforehand does not matter.
    aten.empty_permuted.default: lambda size, _layout, **_options: torch.zeros(size),
}
