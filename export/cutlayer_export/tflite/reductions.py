"""Sums, extremes and the like over axes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cutlayer_export.tflite.graph import Graph
from cutlayer_export.tflite.values import CHANNELS_LAST, Value, count, plain, scalar

__all__ = ["RULES"]

aten = torch.ops.aten


def _reduced(kind: str) -> Callable[..., Value]:
    def rule(graph: Graph, x: Value, axes: Sequence[int] | None = None, keep: bool = False, **_: Any) -> Value:
        rank = len(x.shape)
        if kind == "SUM" and x.tensor.dtype == "bool":
            x = Value(graph.cast(x.tensor, "float32"), x.images)
        gone = _axes(x, axes)
        if x.images and keep:
            return Value(graph.reduce(kind, x.tensor, [CHANNELS_LAST[axis] for axis in gone]), images=True)
        if x.images and gone == [2, 3]:
            return Value(graph.reduce(kind, x.tensor, [1, 2], keep=False))
        if not rank:
            return x
        return Value(graph.reduce(kind, plain(graph, x), gone, keep))

    return rule


def _axes(x: Value, axes: Sequence[int] | int | None) -> list[int]:
    rank = len(x.shape)
    return sorted(axis % rank for axis in ([axes] if isinstance(axes, int) else axes or range(rank)))


_SUM, _MEAN, _GREATEST = _reduced("SUM"), _reduced("MEAN"), _reduced("REDUCE_MAX")


def _variance(
    graph: Graph, x: Value, axes: Sequence[int] | None = None, correction: float | None = None, keepdim: bool = False
) -> Value:
    """The variance; Bessel's correction, by default 1, is subtracted from the number of entries."""
    lost = 1.0 if correction is None else correction
    number = scalar(graph, count([x.shape[axis] for axis in _axes(x, axes)]))
    centred = graph.minus(x.tensor, _MEAN(graph, x, axes, True).tensor)
    mean = _MEAN(graph, Value(graph.times(centred, centred), x.images), axes, keepdim)
    share = graph.binary("DIV", number, graph.minus(number, graph.constant(lost)))
    return Value(graph.times(mean.tensor, share), mean.images)


def _norm(
    graph: Graph, x: Value, order: float = 2, axes: Sequence[int] | None = None, keep: bool = False, **_: Any
) -> Value:
    if order == 2:
        squares = _SUM(graph, Value(graph.times(x.tensor, x.tensor), x.images), axes, keep)
        return Value(graph.unary("SQRT", squares.tensor), squares.images)
    size = graph.unary("ABS", x.tensor)
    if order == float("inf"):
        return _GREATEST(graph, Value(size, x.images), axes, keep)
    if order == 1:
        return _SUM(graph, Value(size, x.images), axes, keep)
    if order <= 0:
        raise NotImplementedError(f"a norm of order {order}")
    powers = graph.binary("POW", size, graph.constant(order))
    total = _SUM(graph, Value(powers, x.images), axes, keep)
    return Value(graph.binary("POW", total.tensor, graph.constant(1 / order)), total.images)


def _place(kind: str) -> Callable[..., Value]:
    """The index of the first greatest or least entry along an axis."""

    def rule(graph: Graph, x: Value, axis: int | None = None, keep: bool = False) -> Value:
        if axis is None:
            raise NotImplementedError("a place among all entries")
        axis %= len(x.shape)
        tensor = plain(graph, x)
        left = [size for at, size in enumerate(tensor.shape) if at != axis]
        places = graph.add(kind, [tensor, graph.constant(axis, "int32")], left, "int32", places="int32")
        return Value(graph.reshape(places, [*left[:axis], 1, *left[axis:]]) if keep else places)

    return rule


def _extreme(value: str, place: str) -> Callable[..., list[Value]]:
    """The greatest or least entry along an axis, and its index."""

    def rule(graph: Graph, x: Value, axis: int, keep: bool = False) -> list[Value]:
        found = graph.reduce(value, plain(graph, x), [axis], keep)
        return [Value(found), _place(place)(graph, x, axis, keep)]

    return rule


def _cumulative(graph: Graph, x: Value, axis: int, **_: Any) -> Value:
    tensor = plain(graph, x)
    if tensor.dtype == "bool":
        tensor = graph.cast(tensor, "int64")
    if tensor.shape[axis] < 0:
        raise NotImplementedError("a sum over the batch so far")
    at = graph.constant(axis % len(tensor.shape), "int32")
    return Value(graph.add("CUMSUM", [tensor, at], tensor.shape, tensor.dtype))


RULES: dict[Any, Callable[..., Any]] = {
    aten.amax.default: _GREATEST,
    aten.amin.default: _reduced("REDUCE_MIN"),
    aten.argmax.default: _place("ARG_MAX"),
    aten.argmin.default: _place("ARG_MIN"),
    aten.any.dim: _reduced("REDUCE_ANY"),
    aten.any.dims: _reduced("REDUCE_ANY"),
    aten.cumsum.default: _cumulative,
    aten.linalg_vector_norm.default: _norm,
    aten.max.dim: _extreme("REDUCE_MAX", "ARG_MAX"),
    aten.mean.dim: _MEAN,
    aten.min.dim: _extreme("REDUCE_MIN", "ARG_MIN"),
    aten.sum.default: _SUM,
    aten.sum.dim_IntList: _SUM,
    aten.var.correction: _variance,
}
