"""Normalisation, and the sums over channels that its backward pass is made of."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cutlayer_export.tflite.graph import Graph, Tensor
from cutlayer_export.tflite.values import Value, count, images, plain, scalar

__all__ = ["RULES", "channel_mean", "channel_sum"]

aten, ours = torch.ops.aten, torch.ops.cutlayer


def channel_mean(graph: Graph, x: Tensor) -> Tensor:
    """Mean over everything but channels, which come last: (B, ..., C) to (1, 1, 1, C).

    Axis by axis, so that no sum has many terms: runtimes add them one after the other in float32.
    """
    for axis in range(len(x.shape) - 2, -1, -1):
        x = graph.reduce("MEAN", x, (axis,))
    return graph.reshape(x, (1, 1, 1, x.shape[-1]))


def channel_sum(graph: Graph, x: Tensor) -> Tensor:
    """Sum over everything but channels, which come last: (B, ..., C) to (C,)."""
    number = scalar(graph, count((*x.shape[:-1],)))
    return graph.reshape(graph.times(channel_mean(graph, x), number), (x.shape[-1],))


def _last(graph: Graph, x: Value) -> Tensor:
    """The tensor with its channels last, whatever its other axes are: (B, ..., C)."""
    if len(x.shape) == 4:
        return images(graph, x)
    rank = len(x.shape)
    return graph.transpose(plain(graph, x), [0, *range(2, rank), 1])


def _first(graph: Graph, x: Tensor) -> Value:
    """The inverse of `_last`."""
    rank = len(x.shape)
    if rank == 4:
        return Value(x, images=True)
    return Value(graph.transpose(x, [0, rank - 1, *range(1, rank - 1)]))


def _scale_shift(graph: Graph, x: Value, scale: Value, shift: Value) -> Value:
    return _first(graph, graph.plus(graph.times(_last(graph, x), scale.tensor), shift.tensor))


def _scale_channels(graph: Graph, x: Value, scale: Value) -> Value:
    return _first(graph, graph.times(_last(graph, x), scale.tensor))


def _batch_norm_train(graph: Graph, x: Value, weight: Value, bias: Value, epsilon: float) -> list[Value]:
    rows = _last(graph, x)
    channels = (rows.shape[-1],)
    mean = graph.reshape(channel_mean(graph, rows), channels)
    centred = graph.minus(rows, mean)
    variance = graph.reshape(channel_mean(graph, graph.times(centred, centred)), channels)
    deviation = graph.unary("RSQRT", graph.plus(variance, graph.constant(epsilon)))
    y = graph.plus(graph.times(centred, graph.times(deviation, weight.tensor)), bias.tensor)
    return [_first(graph, y), Value(mean), Value(variance)]


def _batch_norm(
    graph: Graph,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    _momentum: float,
    epsilon: float,
) -> list[Value]:
    """BatchNorm with running statistics: a scale and a shift that depend on weights and buffers alone."""
    scale = graph.unary("RSQRT", graph.plus(variance.tensor, graph.constant(epsilon)))
    if weight is not None:
        scale = graph.times(weight.tensor, scale)
    shift = graph.unary("NEG", graph.times(mean.tensor, scale))
    if bias is not None:
        shift = graph.plus(bias.tensor, shift)
    return [_scale_shift(graph, x, Value(scale), Value(shift))]


def _layer_norm(
    graph: Graph, x: Value, shape: Sequence[int], weight: Value | None, bias: Value | None, epsilon: float
) -> list[Value]:
    """The result, and mean and inverse deviation of each sample."""
    tensor = plain(graph, x)
    axes = list(range(len(x.shape) - len(shape), len(x.shape)))
    mean = graph.reduce("MEAN", tensor, axes)
    centred = graph.minus(tensor, mean)
    variance = graph.reduce("MEAN", graph.times(centred, centred), axes)
    deviation = graph.unary("RSQRT", graph.plus(variance, graph.constant(epsilon)))
    y = graph.times(centred, deviation)
    y = y if weight is None else graph.times(y, plain(graph, weight))
    y = y if bias is None else graph.plus(y, plain(graph, bias))
    return [Value(y), Value(mean), Value(deviation)]


def _group_norm(
    graph: Graph,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    batch: Any,
    channels: int,
    size: int,
    groups: int,
    epsilon: float,
) -> list[Value]:
    """The result, and mean and inverse deviation of each group of channels of each sample."""
    rows = graph.reshape(plain(graph, x), (-1, groups, channels // groups * size))
    y, mean, deviation = _layer_norm(graph, Value(rows), rows.shape[2:], None, None, epsilon)
    result = graph.reshape(y.tensor, x.shape)
    axes = (1, channels, *[1] * (len(x.shape) - 2))
    if weight is not None:
        result = graph.times(result, graph.reshape(plain(graph, weight), axes))
    if bias is not None:
        result = graph.plus(result, graph.reshape(plain(graph, bias), axes))
    return [Value(result), *(Value(graph.reshape(each.tensor, (-1, groups))) for each in (mean, deviation))]


RULES: dict[Any, Callable[..., Any]] = {
    aten._native_batch_norm_legit_no_training.default: _batch_norm,  # noqa: SLF001
    aten.native_group_norm.default: _group_norm,
    aten.native_layer_norm.default: _layer_norm,
    ours.batch_norm_train.default: _batch_norm_train,
    ours.channel_sum.default: lambda graph, x: Value(channel_sum(graph, _last(graph, x))),
    ours.scale_channels.default: _scale_channels,
    ours.scale_shift.default: _scale_shift,
}
