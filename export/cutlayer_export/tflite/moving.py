"""Operations that only move entries."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cutlayer_export.tflite.graph import Graph, Tensor
from cutlayer_export.tflite.values import CHANNELS_LAST, PerSample, Value, aligned, plain, scalar, sizes

__all__ = ["RULES", "samples"]

aten = torch.ops.aten
_END = 1 << 31


def _view(graph: Graph, x: Value, shape: Sequence[Any]) -> Value:
    return Value(graph.reshape(plain(graph, x), sizes([None if size == -1 else size for size in shape])))


def _permute(graph: Graph, x: Value, order: Sequence[int]) -> Value:
    rank = len(x.shape)
    return Value(graph.transpose(plain(graph, x), [axis % rank for axis in order]))


def _squeeze(graph: Graph, x: Value, axes: Sequence[int]) -> Value:
    gone = {axis % len(x.shape) for axis in axes if x.shape[axis] == 1}
    return Value(graph.reshape(plain(graph, x), [size for axis, size in enumerate(x.shape) if axis not in gone]))


def _unsqueeze(graph: Graph, x: Value, axis: int) -> Value:
    shape = list(x.shape)
    shape.insert(axis % (len(shape) + 1), 1)
    return Value(graph.reshape(plain(graph, x), shape))


def _expand(graph: Graph, x: Value, shape: Sequence[Any]) -> Value:
    """Expand by adding zeros of the wanted shape, since operations broadcast by themselves."""
    padded = (1,) * (len(shape) - len(x.shape)) + x.shape
    wanted = tuple(sizes([old if size == -1 else size for size, old in zip(shape, padded, strict=True)]))
    tensor = graph.reshape(plain(graph, x), padded)
    if wanted == padded:
        return Value(tensor)
    if tensor.data is not None and min(wanted, default=0) >= 0:
        return Value(graph.constant(np.broadcast_to(tensor.data, wanted), tensor.dtype))
    zeros = graph.cast(_zeros(graph, wanted), tensor.dtype)
    return Value(graph.binary("LOGICAL_OR", tensor, zeros) if tensor.dtype == "bool" else graph.plus(tensor, zeros))


def _repeat(graph: Graph, x: Value, times: Sequence[Any]) -> Value:
    padded = (1,) * (len(times) - len(x.shape)) + x.shape
    apart = [size for each, size in zip(times, padded, strict=True) for size in (each, size)]
    lone = [each for size in padded for each in (1, size)]
    repeated = _expand(graph, Value(graph.reshape(plain(graph, x), lone)), apart)
    merged = [a * b for a, b in zip(sizes(times), padded, strict=True)]
    return Value(graph.reshape(repeated.tensor, merged))


def _zeros(graph: Graph, shape: Sequence[int]) -> Tensor:
    """Zeros of a shape, which may include the batch."""
    if min(shape, default=0) >= 0:
        return graph.constant(np.zeros(shape))
    axis = next(axis for axis, size in enumerate(shape) if size < 0)
    each = -shape[axis]
    column = _nothing(graph)
    if each > 1:
        column = graph.plus(column, graph.constant(np.zeros((1, each))))
    full = graph.reshape(column, (-each, *(1 for _ in shape[axis + 1 :])))
    return graph.plus(full, graph.constant(np.zeros([1 if size < 0 else size for size in shape])))


def _nothing(graph: Graph) -> Tensor:
    """One zero per sample, (B, 1); not 0 * x, which is not a number where x is none."""
    x = graph.inputs["x"]
    first = graph.slice(x, [0] * len(x.shape), [None] + [1] * (len(x.shape) - 1))
    return graph.reshape(graph.cast(graph.binary("NOT_EQUAL", first, first, "bool"), "float32"), (-1, 1))


def samples(graph: Graph) -> Tensor:
    """The index of each sample in its batch, from 0: (B, 1)."""
    ones = graph.plus(_nothing(graph), graph.constant(1.0))
    return graph.add("CUMSUM", [ones, graph.constant(0, "int32")], ones.shape, exclusive=True)


def _slice(graph: Graph, x: Value, axis: int = 0, start: int | None = None, stop: Any = None, step: int = 1) -> Value:
    axis %= len(x.shape)
    size = x.shape[axis]
    if size < 0:
        if start in (None, 0) and step == 1 and (stop is None or isinstance(stop, PerSample) or stop >= _END):
            return x
        raise NotImplementedError("a slice of the batch")
    begin, end, step = slice(start, None if stop is None else min(stop, _END), step).indices(size)
    at, tensor = (CHANNELS_LAST[axis], x.tensor) if x.images else (axis, x.tensor)
    starts, stops, steps = [0] * len(x.shape), [None] * len(x.shape), [1] * len(x.shape)
    starts[at], stops[at], steps[at] = begin, end, step  # type: ignore[call-overload]
    return Value(graph.slice(tensor, starts, stops, steps), x.images)


def _select(graph: Graph, x: Value, axis: int, place: int) -> Value:
    axis %= len(x.shape)
    place %= x.shape[axis]
    return _squeeze(graph, _slice(graph, x, axis, place, place + 1), [axis])


def _split(graph: Graph, x: Value, lengths: Sequence[int], axis: int = 0) -> list[Value]:
    ends = np.cumsum(lengths).tolist()
    return [_slice(graph, x, axis, end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _slice_scatter(
    graph: Graph, x: Value, source: Value, axis: int = 0, start: int | None = None, stop: Any = None, step: int = 1
) -> Value:
    axis %= len(x.shape)
    size = x.shape[axis]
    if size < 0:
        if start in (None, 0) and step == 1 and (stop is None or isinstance(stop, PerSample) or stop >= _END):
            return source
        raise NotImplementedError("a slice of the batch")
    places = range(*slice(start, None if stop is None else min(stop, _END), step).indices(size))
    if step == 1:
        parts = [_slice(graph, x, axis, 0, places.start), source, _slice(graph, x, axis, places.stop, size)]
        return _concatenate(graph, [part for part in parts if part.shape[axis]], axis)
    sources = [(source, places.index(at)) if at in places else (x, at) for at in range(size)]
    return _concatenate(graph, [_slice(graph, each, axis, at, at + 1) for each, at in sources], axis)


def _concatenate(graph: Graph, parts: Sequence[Value], axis: int = 0) -> Value:
    if len(parts) == 1:
        return parts[0]
    parts = [part for part in parts if part.shape != (0,)]
    axis %= len(parts[0].shape)
    tensors, last = aligned(graph, parts)
    return Value(graph.concatenate(tensors, CHANNELS_LAST[axis] if last else axis), last)


def _pad(graph: Graph, x: Value, margins: Sequence[int], value: float = 0.0) -> Value:
    rank = len(x.shape)
    pairs = [(0, 0)] * rank
    for number in range(len(margins) // 2):
        pairs[rank - 1 - number] = (margins[2 * number], margins[2 * number + 1])
    if x.images:
        pairs = [pairs[0], pairs[2], pairs[3], pairs[1]]
    crop = [(max(-low, 0), max(-high, 0)) for low, high in pairs]
    stops = [None if not any(each) else size - each[1] for size, each in zip(x.tensor.shape, crop, strict=True)]
    tensor = graph.slice(x.tensor, [low for low, _ in crop], stops)
    return Value(graph.pad(tensor, [(max(low, 0), max(high, 0)) for low, high in pairs], value), x.images)


def _full(graph: Graph, shape: Sequence[Any], value: Any, dtype: torch.dtype | None = None, **_: Any) -> Value:
    name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    wanted = sizes(shape)
    if min(wanted, default=0) < 0:
        return Value(graph.cast(graph.plus(_zeros(graph, wanted), scalar(graph, float(value))), name))
    return Value(graph.constant(np.full(wanted, value), name))


def _full_like(graph: Graph, x: Value, value: Any, dtype: torch.dtype | None = None, **_: Any) -> Value:
    shape = [PerSample(-size) if size < 0 else size for size in x.shape]
    name = torch.float32 if dtype is None and x.tensor.dtype == "float32" else dtype or getattr(torch, x.tensor.dtype)
    return _full(graph, shape, value, name)


def _arange(graph: Graph, start: int, stop: Any, step: int = 1, dtype: torch.dtype | None = None, **_: Any) -> Value:
    name = "int64" if dtype is None else str(dtype).removeprefix("torch.")
    if isinstance(stop, PerSample):
        if (start, step, stop.number) != (0, 1, 1):
            raise NotImplementedError("numbers in steps up to the size of the batch")
        return Value(graph.cast(graph.reshape(samples(graph), (-1,)), name))
    return Value(graph.constant(np.arange(start, stop, step), name))


def _index(graph: Graph, x: Value, places: Sequence[Value | None]) -> Value:
    """Entries at constant indices along some axes: what upsampling needs, and the masks of attention."""
    first = places[0]
    if first is not None and _is_batch(graph, first):
        return _index_of_samples(graph, x, first, places[1:])
    tensor = plain(graph, x)
    for axis, wanted in _places(x.shape, places).items():
        shape = (*tensor.shape[:axis], len(wanted), *tensor.shape[axis + 1 :])
        tensor = graph.add("GATHER", [tensor, graph.constant(wanted, "int32")], shape, tensor.dtype, axis=axis)
    return Value(tensor)


def _is_batch(graph: Graph, place: Value) -> bool:
    """Whether a tensor holds the number of each sample, so that it picks from each sample its own entries."""
    numbers = graph.reshape(graph.cast(graph.reshape(samples(graph), (-1,)), place.tensor.dtype), place.shape)
    return place.tensor is numbers and place.shape[0] == -1


def _index_of_samples(graph: Graph, x: Value, batch: Value, places: Sequence[Value | None]) -> Value:
    """Entries of each sample at constant places, each axis of x in a dimension of its own of the result."""
    wanted = [1] * len(batch.shape)
    wanted[0] = -1
    tensor, last = plain(graph, x), 0
    for axis, place in enumerate(places, 1):
        if place is None or place.tensor.data is None or len(place.shape) > len(wanted):
            raise NotImplementedError("places that are known at run time only")
        full = (1,) * (len(wanted) - len(place.shape)) + place.shape
        long = [at for at, size in enumerate(full) if size > 1] or [last + 1]
        if len(long) > 1 or long[0] <= last:
            raise NotImplementedError("places that are not an axis each")
        last = long[0]
        wanted[last] = full[last]
        at = np.asarray(place.tensor.data).reshape(-1) % x.shape[axis]
        shape = (*tensor.shape[:axis], len(at), *tensor.shape[axis + 1 :])
        tensor = graph.add("GATHER", [tensor, graph.constant(at, "int32")], shape, tensor.dtype, axis=axis)
    return Value(graph.reshape(tensor, [*wanted, *x.shape[1 + len(places) :]]))


def _places(shape: Sequence[int], places: Sequence[Value | None]) -> dict[int, NDArray[Any]]:
    """The constant indices of each axis that has some; raises unless each axis has its own."""
    chosen = {axis: place for axis, place in enumerate(places) if place is not None}
    shapes = [place.shape for place in chosen.values()]
    if any(
        place.tensor.data is None or place.tensor.dtype == "bool" or shape[axis] < 0 for axis, place in chosen.items()
    ):
        raise NotImplementedError("places that are known at run time only")
    rank, axes = len(shapes), list(chosen)
    spread = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    alone = all(shapes) and all(len(each) == rank and math.prod(each) == each[at] for at, each in enumerate(spread))
    if not alone or axes != list(range(axes[0], axes[0] + rank)):
        raise NotImplementedError("places that are not an axis each")
    return {axis: np.asarray(place.tensor.data).reshape(-1) % shape[axis] for axis, place in chosen.items()}


def _index_put(
    graph: Graph, x: Value, places: Sequence[Value | None], source: Value, accumulate: bool = False
) -> Value:
    """Add entries at constant indices, the inverse of `_index`: each axis is multiplied by a matrix with ones there."""
    if not accumulate:
        raise NotImplementedError("writing in the middle of a tensor")
    tensor = plain(graph, source)
    for axis, wanted in _places(x.shape, places).items():
        rank, full = len(x.shape), x.shape[axis]
        order = [*(each for each in range(rank) if each != axis), axis]
        moved = graph.transpose(tensor, order)
        rows = graph.reshape(moved, (None, len(wanted)))
        added = graph.linear(rows, graph.constant(np.eye(full)[:, wanted]))
        back = graph.reshape(added, (*moved.shape[:-1], full))
        tensor = graph.transpose(back, [order.index(each) for each in range(rank)])
    return Value(graph.plus(plain(graph, x), tensor))


def _copy(graph: Graph, x: Value, source: Value, *_: Any) -> Value:
    """``source``, which is written over all of ``x``."""
    return _expand(graph, source, [PerSample(-size) if size < 0 else size for size in x.shape])


def _flip(graph: Graph, x: Value, axes: Sequence[int]) -> Value:
    """Reverse one axis at a time: version 2.14 accepts several, but reverses only the first."""
    tensor = plain(graph, x)
    for axis in axes:
        tensor = graph.add("REVERSE_V2", [tensor, graph.integers(axis % len(x.shape))], tensor.shape, tensor.dtype)
    return Value(tensor)


RULES: dict[Any, Callable[..., Any]] = {
    aten._unsafe_view.default: _view,  # noqa: SLF001
    aten.arange.start_step: _arange,
    aten.cat.default: _concatenate,
    aten.constant_pad_nd.default: _pad,
    aten.empty.memory_format: lambda graph, size, **options: _full(graph, size, 0, options.get("dtype")),
    aten.copy.default: _copy,
    aten.expand.default: _expand,
    aten.flip.default: _flip,
    aten.full.default: _full,
    aten.full_like.default: _full_like,
    aten.index.Tensor: _index,
    aten.index_put.default: _index_put,
    aten.new_empty_strided.default: lambda graph, _, size, *__, **options: _full(graph, size, 0, options.get("dtype")),
    aten.permute.default: _permute,
    aten.repeat.default: _repeat,
    aten.reshape.default: _view,
    aten.scalar_tensor.default: lambda graph, value, **options: _full(graph, [], value, **options),
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.slice_scatter.default: _slice_scatter,
    aten.split_with_sizes.default: _split,
    aten.squeeze.dim: lambda graph, x, axis: _squeeze(graph, x, [axis]),
    aten.squeeze.dims: _squeeze,
    aten.unsqueeze.default: _unsqueeze,
    aten.view.default: _view,
}
