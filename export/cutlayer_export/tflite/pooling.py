"""Pooling and its backward passes, computed on tensors (B, H, W, C)."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cutlayer_export.graph.operators import pooling_matrices
from cutlayer_export.tflite.elementwise import positive
from cutlayer_export.tflite.graph import Graph, Tensor
from cutlayer_export.tflite.spread import interleave
from cutlayer_export.tflite.values import Value, images

__all__ = ["RULES"]

aten, ours = torch.ops.aten, torch.ops.cutlayer
_LOWEST = float(np.finfo(np.float32).min)


class _Windows(NamedTuple):
    """The geometry of a pooling's windows: two numbers each, for height and width."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    size: tuple[int, ...]
    out: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> "_Windows":
        if len(kernel) > 2:
            raise NotImplementedError(f"pooling of {len(kernel)} dimensions")
        pairs = [tuple(each) * (2 // len(each)) for each in (kernel, stride or kernel, padding, dilation)]
        size, (wide, steps, margin, apart) = tuple(shape[-2:]), pairs
        out = tuple(itertools.starmap(_swept, zip(size, *pairs, [ceil] * 2, strict=True)))
        return cls(wide, steps, margin, apart, size, out)

    @property
    def after(self) -> list[int]:
        """Padding needed after the input, so that every window is complete."""
        reached = zip(self.out, self.stride, self.dilation, self.kernel, self.padding, self.size, strict=True)
        return [max((o - 1) * s + d * (k - 1) + 1 - p - n, 0) for o, s, d, k, p, n in reached]

    def padded(self, graph: Graph, x: Tensor, value: float) -> Tensor:
        margins = zip(self.padding, self.after, strict=True)
        return graph.pad(x, [(0, 0), *margins, (0, 0)], value)

    def pooled(self, graph: Graph, kind: str, x: Tensor) -> Tensor:
        """MAX_POOL_2D or AVERAGE_POOL_2D of a padded tensor."""
        options: dict[str, Any] = {"stride_height": self.stride[0], "stride_width": self.stride[1], "padding": 1}
        options |= {"window_height": self.kernel[0], "window_width": self.kernel[1]}
        return graph.add(kind, [x], (x.shape[0], *self.out, x.shape[3]), **options)

    def tap(self, graph: Graph, x: Tensor, place: Sequence[int]) -> Tensor:
        """The entry at one place of every window of a padded tensor: (B, *out, C)."""
        starts = [at * d for at, d in zip(place, self.dilation, strict=True)]
        stops = [start + (o - 1) * s + 1 for start, o, s in zip(starts, self.out, self.stride, strict=True)]
        return graph.slice(x, [0, *starts, 0], [None, *stops, None], [1, *self.stride, 1])


def _swept(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Output size as torch counts it: ``ceil`` adds a last window if that starts in the image or its first padding."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    out = (-(-room // stride) if ceil else room // stride) + 1
    return out - (ceil and (out - 1) * stride >= size + padding)


def _max_pool(graph: Graph, x: Value, *geometry: Any) -> Value:
    windows = _Windows.of(x.shape, *geometry)
    padded = windows.padded(graph, images(graph, x), _LOWEST)
    if max(windows.dilation) == 1:
        return Value(windows.pooled(graph, "MAX_POOL_2D", padded), images=True)
    taps = [windows.tap(graph, padded, place) for place in itertools.product(*map(range, windows.kernel))]
    found = taps[0]
    for tap in taps[1:]:
        found = graph.binary("MAXIMUM", found, tap)
    return Value(found, images=True)


def _max_pool_grad(graph: Graph, dy: Value, x: Value, y: Value, *geometry: Any) -> Value:
    """Pass dy on from place to place of each window until one holds the maximum, which keeps it."""
    windows = _Windows.of(x.shape, *geometry)
    left, greatest = images(graph, dy), images(graph, y)
    padded = windows.padded(graph, images(graph, x), _LOWEST)
    places = list(itertools.product(*map(range, windows.kernel)))
    given: dict[tuple[int, ...], Tensor] = {}
    for place in places[:-1]:
        # RELU: the difference may be below zero where another kernel has computed the entries again.
        below = graph.unary("RELU", graph.minus(greatest, windows.tap(graph, padded, place)))
        passed = graph.times(left, positive(graph, below))
        given[place] = graph.minus(left, passed)
        left = passed
    given[places[-1]] = left  # one place is the maximum; if none before, this one
    return Value(_assembled(graph, given, windows), images=True)


def _assembled(graph: Graph, given: dict[tuple[int, ...], Tensor], windows: _Windows) -> Tensor:
    """The sum of what the windows give to each entry: the places within one stride are interleaved into an image."""
    like = next(iter(given.values()))
    offsets = {
        tuple(at * d for at, d in zip(place, windows.dilation, strict=True)): each for place, each in given.items()
    }
    steps = windows.stride
    total: Tensor | None = None
    height, width = (n + p + a for n, p, a in zip(windows.size, windows.padding, windows.after, strict=True))
    blocks = sorted({(row // steps[0], column // steps[1]) for row, column in offsets})
    for block in blocks:
        corner = [at * s for at, s in zip(block, steps, strict=True)]
        grid = [[offsets.get((corner[0] + r, corner[1] + c)) for c in range(steps[1])] for r in range(steps[0])]
        part = interleave(graph, grid, like)
        tall, wide = (
            min(have, room - at) for have, room, at in zip(part.shape[1:3], (height, width), corner, strict=True)
        )
        part = graph.slice(part, [0, 0, 0, 0], [None, tall, wide, None])
        part = graph.pad(
            part, [(0, 0), (corner[0], height - corner[0] - tall), (corner[1], width - corner[1] - wide), (0, 0)]
        )
        total = part if total is None else graph.plus(total, part)
    assert total is not None
    starts = [0, *windows.padding, 0]
    return graph.slice(
        total, starts, [None, *(p + n for p, n in zip(windows.padding, windows.size, strict=True)), None]
    )


def _average_pool(
    graph: Graph, x: Value, kernel: Any, stride: Any = (), padding: Any = (0,), ceil: bool = False, count_padding: bool = True
) -> Value:  # fmt: skip
    windows = _Windows.of(x.shape, kernel, stride, padding, (1,), ceil)
    y = windows.pooled(graph, "AVERAGE_POOL_2D", windows.padded(graph, images(graph, x), 0.0))
    shares = _shares(windows, count_padding)
    return Value(y if (shares == 1).all() else graph.times(y, graph.constant(shares)), images=True)


def _shares(windows: _Windows, count_padding: bool) -> NDArray[np.float64]:
    """The factors by which to multiply the means of whole windows, since some are partly padding: (1, *out, 1)."""
    counts = []
    each = zip(windows.size, windows.out, windows.kernel, windows.stride, windows.padding, strict=True)
    for size, out, k, s, p in each:
        starts = s * np.arange(out) - p
        low, high = (starts, size + p) if count_padding else (np.maximum(starts, 0), size)
        counts.append(np.minimum(starts + k, high) - low)
    shares: NDArray[np.float64] = np.prod(windows.kernel) / np.multiply.outer(*counts)
    return shares[None, ..., None]


def _adaptive_average_pool(graph: Graph, x: Value, out: Sequence[int]) -> Value:
    rows = images(graph, x)
    for axis, size in zip((1, 2), out, strict=True):
        full = rows.shape[axis]
        matrix = np.zeros((size, full))
        for each in range(size):
            span = slice(each * full // size, -(-(each + 1) * full // size))
            matrix[each, span] = 1 / (span.stop - span.start)
        rows = _multiplied(graph, rows, axis, matrix)
    return Value(rows, images=True)


def _average_pool_grad(graph: Graph, dy: Value, size: Sequence[int], shares: Sequence[float]) -> Value:
    if len(size) > 2:
        raise NotImplementedError(f"pooling of {len(size)} dimensions")
    if len(dy.shape) == 3:
        raise NotImplementedError("pooling of signals without a height")
    rows = images(graph, dy)
    matrices = [np.asarray(matrix) for matrix in pooling_matrices(dy, size, shares)]
    factors = [_tile(matrix) for matrix in matrices]
    if None not in factors:
        counts = [full // have for full, have in zip(size, rows.shape[1:3], strict=True)]
        rows = graph.scaled(rows, float(np.prod(factors)))  # type: ignore[arg-type]
        if rows.shape[1:3] == (1, 1):
            return Value(graph.plus(rows, graph.constant(np.zeros((1, *size, 1)))), images=True)
        return Value(interleave(graph, [[rows] * counts[1]] * counts[0], rows), images=True)
    for axis, matrix in zip((1, 2), matrices, strict=True):
        rows = _multiplied(graph, rows, axis, matrix.T)
    return Value(rows, images=True)


def _tile(matrix: NDArray[Any]) -> float | None:
    """The share of an entry in its window if the windows lie side by side and fill the whole axis, else None."""
    out, full = matrix.shape
    share = float(matrix[0, 0])
    wanted = np.kron(np.eye(out), np.full((1, full // out), share))
    return share if full % out == 0 and np.array_equal(wanted, matrix) else None


def _multiplied(graph: Graph, x: Tensor, axis: int, matrix: NDArray[Any]) -> Tensor:
    """Multiply by a matrix (out, in) along height (axis 1) or width (axis 2)."""
    batch, height, width, channels = x.shape
    out = len(matrix)
    if axis == 1:
        product = graph.product(graph.constant(matrix[None]), graph.reshape(x, (batch, height, width * channels)))
        return graph.reshape(product, (batch, out, width, channels))
    product = graph.product(graph.constant(matrix[None]), graph.reshape(x, (None, width, channels)))
    return graph.reshape(product, (batch, height, out, channels))


RULES: dict[Any, Callable[..., Any]] = {
    aten._adaptive_avg_pool2d.default: _adaptive_average_pool,  # noqa: SLF001
    aten.adaptive_avg_pool2d.default: _adaptive_average_pool,
    aten.avg_pool2d.default: _average_pool,
    ours.average_pool_grad.default: _average_pool_grad,
    ours.max_pool.default: _max_pool,
    ours.max_pool_grad.default: _max_pool_grad,
}
