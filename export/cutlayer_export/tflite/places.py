"""Entries at computed places along an axis, and sorting: by comparing, since no engine may add to one place in parallel.

All work on rows: the axis last, everything before it merged.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from cutlayer_export.tflite.graph import Graph, Tensor
from cutlayer_export.tflite.values import Value, plain

__all__ = ["RULES"]

aten = torch.ops.aten
_MOST = 512
"""Most entries along an axis that are compared with each other."""


def _rows(graph: Graph, x: Value, axis: int) -> Tensor:
    order = _order(len(x.shape), axis)
    moved = graph.transpose(plain(graph, x), order)
    return graph.reshape(moved, (None, moved.shape[-1]))


def _back(graph: Graph, rows: Tensor, shape: tuple[int, ...], axis: int) -> Value:
    """Rows as a tensor of ``shape`` but for the axis, which has as many entries as the rows."""
    order = _order(len(shape), axis)
    moved = graph.reshape(rows, [*(shape[at] for at in order[:-1]), rows.shape[-1]])
    return Value(graph.transpose(moved, [order.index(at) for at in range(len(shape))]))


def _order(rank: int, axis: int) -> list[int]:
    return [*(at for at in range(rank) if at != axis % rank), axis % rank]


def _chosen(graph: Graph, places: Tensor, size: int) -> Tensor:
    """A mask (rows, places, size): true where a place is the entry."""
    column = graph.cast(graph.reshape(places, (places.shape[0], places.shape[1], 1)), "int32")
    return graph.binary("EQUAL", column, graph.constant(np.arange(size)[None, None], "int32"), "bool")


def _checked(x: Value, axis: int, places: Value) -> int:
    axis %= len(x.shape)
    if x.shape[axis] < 0:
        raise NotImplementedError("places along the batch")
    others = [(a, b) for at, (a, b) in enumerate(zip(x.shape, places.shape, strict=True)) if at != axis]
    if any(a != b for a, b in others):
        raise NotImplementedError(f"places of shape {places.shape} in entries of shape {x.shape}")
    return axis


def _gather(graph: Graph, x: Value, axis: int, places: Value, **_: Any) -> Value:
    axis = _checked(x, axis, places)
    rows, wanted = _rows(graph, x, axis), _rows(graph, places, axis)
    entries = graph.reshape(rows, (rows.shape[0], 1, rows.shape[1]))
    picked = graph.choose(_chosen(graph, wanted, x.shape[axis]), entries, _zero(graph, rows))
    return _back(graph, graph.reduce("SUM", picked, [2], keep=False), places.shape, axis)


def _spread(graph: Graph, x: Value, axis: int, places: Value, source: Any) -> tuple[Tensor, Tensor]:
    """Rows of what is written to each entry, and of how many write to it."""
    wanted = _rows(graph, places, axis)
    mask = _chosen(graph, wanted, x.shape[axis])
    if isinstance(source, Value):
        if source.shape != places.shape:
            raise NotImplementedError(f"entries of shape {source.shape} for places of {places.shape}")
        rows = _rows(graph, source, axis)
    else:
        rows = graph.constant(np.full((1, wanted.shape[1]), source))
    written = graph.reshape(rows, (rows.shape[0], rows.shape[1], 1))
    added = graph.reduce("SUM", graph.choose(mask, written, _zero(graph, rows)), [1], keep=False)
    return added, graph.reduce("SUM", graph.cast(mask, "float32"), [1], keep=False)


def _scatter(graph: Graph, x: Value, axis: int, places: Value, source: Any) -> Value:
    """Write entries. Torch does not say which of two in one place stays; here their mean does, so equal ones are right."""
    axis = _checked(x, axis, places)
    added, count = _spread(graph, x, axis, places, source)
    written = graph.binary("GREATER", count, graph.constant(0.0), "bool")
    each = graph.binary("DIV", added, graph.binary("MAXIMUM", count, graph.constant(1.0)))
    return _back(graph, graph.choose(written, each, _rows(graph, x, axis)), x.shape, axis)


def _scatter_add(graph: Graph, x: Value, axis: int, places: Value, source: Value) -> Value:
    axis = _checked(x, axis, places)
    added, _ = _spread(graph, x, axis, places, source)
    return _back(graph, graph.plus(_rows(graph, x, axis), added), x.shape, axis)


def _sorted(graph: Graph, x: Value, axis: int, descending: bool, count: int) -> list[Value]:
    """The first entries in order, and where they were; equal ones stay in their order.

    An entry's rank is the number of those before it.
    """
    axis %= len(x.shape)
    size = x.shape[axis]
    if size < 0 or size > _MOST:
        raise NotImplementedError(f"sorting the batch, or more than {_MOST} entries")
    rows = _rows(graph, x, axis)
    own, other = graph.reshape(rows, (rows.shape[0], size, 1)), graph.reshape(rows, (rows.shape[0], 1, size))
    earlier = graph.constant(np.tri(size, size, -1)[None])
    further = graph.cast(graph.binary("GREATER" if descending else "LESS", other, own, "bool"), "float32")
    equal = graph.times(graph.cast(graph.binary("EQUAL", other, own, "bool"), "float32"), earlier)
    rank = graph.reduce("SUM", graph.plus(further, equal), [2], keep=False)
    mask = graph.binary(
        "EQUAL",
        graph.reshape(rank, (rank.shape[0], 1, size)),
        graph.constant(np.arange(count, dtype=np.float32)[None, :, None]),
        "bool",
    )
    values, places = (
        graph.reduce("SUM", graph.choose(mask, each, graph.constant(0.0)), [2], keep=False)
        for each in (other, graph.constant(np.arange(size, dtype=np.float32)[None, None]))
    )
    return [
        _back(graph, values, x.shape, axis),
        Value(graph.cast(_back(graph, places, x.shape, axis).tensor, "int64")),
    ]


def _zero(graph: Graph, like: Tensor) -> Tensor:
    return graph.constant(0, like.dtype)


def _sort(graph: Graph, x: Value, axis: int = -1, descending: bool = False) -> list[Value]:
    return _sorted(graph, x, axis, descending, x.shape[axis])


def _sort_stable(
    graph: Graph, x: Value, *, stable: bool = True, dim: int = -1, descending: bool = False
) -> list[Value]:
    return _sorted(graph, x, dim, descending, x.shape[dim])


def _topk(graph: Graph, x: Value, k: int, axis: int = -1, largest: bool = True, *_: Any) -> list[Value]:
    return _sorted(graph, x, axis, largest, k)


RULES: dict[Any, Callable[..., Any]] = {
    aten.gather.default: _gather,
    aten.scatter.src: _scatter,
    aten.scatter.value: _scatter,
    aten.scatter_add.default: _scatter_add,
    aten.sort.default: _sort,
    aten.sort.stable: _sort_stable,
    aten.topk.default: _topk,
}
