"""Functions that both engines compute from simpler ones: a table for tracing."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["FUNCTIONS"]

aten = torch.ops.aten


def _trunc(x: Tensor) -> Tensor:
    return torch.where(x < 0, -torch.floor(-x), torch.floor(x))


def _clamp(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if low is not None:
        x = torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _diagonal(x: Tensor, offset: int = 0, first: int = 0, second: int = 1) -> Tensor:
    moved = x.movedim((first, second), (-2, -1))
    start, length = _diagonal_of(moved.shape, offset)
    width = int(moved.shape[-1])
    return moved.flatten(-2)[..., start : start + (length - 1) * (width + 1) + 1 : width + 1]


def _diagonal_backward(dy: Tensor, shape: Sequence[int], offset: int, first: int, second: int) -> Tensor:
    axes = [first % len(shape), second % len(shape)]
    last = [int(shape[axis]) for axis in axes]
    start, _ = _diagonal_of(last, offset)
    flat = _placed(_spread(dy, dy.dim() - 1, last[1] + 1), dy.dim() - 1, start, last[0] * last[1])
    return torch.reshape(flat, [*flat.shape[:-1], *last]).movedim((-2, -1), axes)


def _diagonal_of(shape: Sequence[int], offset: int) -> tuple[int, int]:
    """Where a diagonal starts in the flattened matrix, and how long it is."""
    rows, columns = int(shape[-2]), int(shape[-1])
    if offset >= 0:
        return offset, min(rows, columns - offset)
    return -offset * columns, min(rows + offset, columns)


def _asinh(x: Tensor) -> Tensor:
    size = torch.abs(x)
    return torch.sign(x) * torch.log(size + torch.sqrt(size * size + 1.0))


def _logaddexp(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a, b) + torch.log1p(torch.exp(-torch.abs(a - b)))


def _searchsorted(
    boundaries: Tensor,
    x: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    if boundaries.dim() != 1 or sorter is not None:
        raise NotImplementedError("boundaries that differ from sample to sample, or are not sorted")
    column = x.unsqueeze(-1)
    below = boundaries <= column if right or side == "right" else boundaries < column
    return below.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def _power_of_number(base: Any, x: Tensor) -> Any:
    if not x.is_floating_point() or base <= 0:
        return NotImplemented  # whole numbers stay whole
    return torch.exp(x * math.log(base))


def _axes_of(margins: Sequence[int], x: Tensor) -> list[tuple[int, int, int]]:
    """Each padded axis with its margins before and after it."""
    return [(x.dim() - 1 - at, margins[2 * at], margins[2 * at + 1]) for at in range(len(margins) // 2)]


def _pad(mirrors: bool) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Padding with what lies inside the edges, or with the edges themselves, and its gradient."""

    def edges(x: Tensor, axis: int, before: int, after: int) -> list[Tensor]:
        size = int(x.shape[axis])
        if mirrors:
            return [
                x.narrow(axis, 1, before).flip(axis) if before else x.narrow(axis, 0, 0),
                x,
                x.narrow(axis, size - 1 - after, after).flip(axis) if after else x.narrow(axis, 0, 0),
            ]
        return [x.narrow(axis, 0, 1)] * before + [x] + [x.narrow(axis, size - 1, 1)] * after

    def forward(x: Tensor, margins: Sequence[int]) -> Tensor:
        for axis, before, after in _axes_of(margins, x):
            parts = [each for each in edges(x, axis, before, after) if each.shape[axis] != 0]
            x = torch.cat(parts, axis) if len(parts) > 1 else x
        return x

    def backward(dy: Tensor, x: Tensor, margins: Sequence[int]) -> Tensor:
        for axis, before, after in reversed(_axes_of(margins, x)):
            size = int(x.shape[axis])
            middle = dy.narrow(axis, before, size)
            if before:
                first = dy.narrow(axis, 0, before)
                first = first.flip(axis) if mirrors else first.sum(axis, keepdim=True)
                middle = middle + _placed(first, axis, 1 if mirrors else 0, size)
            if after:
                last = dy.narrow(axis, before + size, after)
                last = last.flip(axis) if mirrors else last.sum(axis, keepdim=True)
                middle = middle + _placed(last, axis, size - 1 - after if mirrors else size - 1, size)
            dy = middle
        return dy

    return forward, backward


def _placed(part: Tensor, axis: int, start: int, size: int) -> Tensor:
    """``part`` at a place along an axis of ``size``, with zeros around it."""
    behind = [0, 0] * (part.dim() - 1 - axis)
    return pad(part, [*behind, start, size - start - int(part.shape[axis])])


def _unfold(x: Tensor, axis: int, size: int, step: int) -> Tensor:
    """Frames of ``size`` entries, each ``step`` after the one before; put together from blocks of ``step`` entries."""
    axis %= x.dim()
    full = int(x.shape[axis])
    frames, blocks = (full - size) // step + 1, -(-size // step)
    wanted = (frames + blocks - 1) * step
    last = x.movedim(axis, -1)
    last = pad(last, [0, wanted - full]) if wanted > full else last.narrow(-1, 0, wanted)
    rows = torch.unflatten(last, -1, (frames + blocks - 1, step))
    found = torch.cat([rows.narrow(-2, at, frames) for at in range(blocks)], -1)
    return found.narrow(-1, 0, size).movedim(-2, axis)


def _unfold_backward(dy: Tensor, shape: Sequence[int], axis: int, size: int, step: int) -> Tensor:
    """Each entry's gradients from all frames that it is in."""
    axis %= len(shape)
    full, frames, blocks = int(shape[axis]), int(dy.shape[axis]), -(-size // step)
    rows = pad(dy.movedim(axis, -2), [0, blocks * step - size])
    wanted = (frames + blocks - 1) * step
    total = None
    for at in range(blocks):
        part = pad(rows.narrow(-1, at * step, step), [0, 0, at, blocks - 1 - at])
        total = part if total is None else total + part
    assert total is not None
    flat = total.flatten(-2)
    return (pad(flat, [0, full - wanted]) if full > wanted else flat.narrow(-1, 0, full)).movedim(-1, axis)


def _taps(size: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    return [(row * dilation[0], column * dilation[1]) for row in range(size[0]) for column in range(size[1])]


def _im2col(
    x: Tensor, kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """Patches as columns, (B, C * rows * columns, places): one strided slice for each entry of the kernel."""
    padded = pad(x, [padding[1], padding[1], padding[0], padding[0]])
    height, width = (_places(padded.shape, at, kernel, dilation, stride) for at in (0, 1))
    taps = [
        padded[:, :, row : row + (height - 1) * stride[0] + 1 : stride[0], column : column + (width - 1) * stride[1] + 1 : stride[1]]
        for row, column in _taps(kernel, dilation)
    ]  # fmt: skip
    return torch.stack(taps, 2).reshape(-1, int(x.shape[1]) * len(taps), height * width)


def _col2im(
    columns: Tensor,
    size: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """The sum of all patches at their places."""
    full = [int(size[at]) + 2 * padding[at] for at in (0, 1)]
    height, width = (_places([0, 0, *full], at, kernel, dilation, stride) for at in (0, 1))
    taps = _taps(kernel, dilation)
    parts = columns.reshape(-1, int(columns.shape[1]) // len(taps), len(taps), height, width).unbind(2)
    total = None
    for part, (row, column) in zip(parts, taps, strict=True):
        placed = _placed(_spread(_spread(part, 2, stride[0]), 3, stride[1]), 2, row, full[0])
        placed = _placed(placed, 3, column, full[1])
        total = placed if total is None else total + placed
    assert total is not None
    return total[:, :, padding[0] : full[0] - padding[0], padding[1] : full[1] - padding[1]]


def _places(
    shape: Sequence[int], at: int, kernel: Sequence[int], dilation: Sequence[int], stride: Sequence[int]
) -> int:
    return (int(shape[2 + at]) - dilation[at] * (kernel[at] - 1) - 1) // stride[at] + 1


def _spread(x: Tensor, axis: int, step: int) -> Tensor:
    """Zeros between the entries of an axis, so that they are ``step`` apart."""
    if step == 1:
        return x
    size = int(x.shape[axis])
    apart = pad(x.unsqueeze(axis + 1), [0, 0] * (x.dim() - 1 - axis) + [0, step - 1])
    return apart.flatten(axis, axis + 1).narrow(axis, 0, (size - 1) * step + 1)


_mirror, _mirror_backward = _pad(mirrors=True)
_replicate, _replicate_backward = _pad(mirrors=False)
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    aten.acosh.default: lambda x: torch.log(x + torch.sqrt((x - 1.0) * (x + 1.0))),
    aten.asinh.default: _asinh,
    aten.atanh.default: lambda x: 0.5 * (torch.log1p(x) - torch.log1p(-x)),
    aten.cosh.default: lambda x: 0.5 * (torch.exp(x) + torch.exp(-x)),
    aten.sinh.default: lambda x: 0.5 * (torch.expm1(x) - torch.expm1(-x)),
    aten.tan.default: lambda x: torch.sin(x) / torch.cos(x),
    aten.clamp.Tensor: _clamp,
    aten.diagonal.default: _diagonal,
    aten.diagonal_backward.default: _diagonal_backward,
    aten.erfc.default: lambda x: 1.0 - torch.erf(x),
    aten.exp2.default: lambda x: torch.exp(x * math.log(2.0)),
    aten.log2.default: lambda x: torch.log(x) * (1.0 / math.log(2.0)),
    aten.log10.default: lambda x: torch.log(x) * (1.0 / math.log(10.0)),
    aten.logaddexp.default: _logaddexp,
    aten.hypot.default: lambda a, b: torch.sqrt(a * a + b * b),
    aten.pow.Scalar: _power_of_number,
    aten.frac.default: lambda x: x - _trunc(x),
    aten.trunc.default: _trunc,
    aten.index_select.default: lambda x, axis, places: aten.index.Tensor(x, [None] * (axis % x.dim()) + [places]),
    aten.searchsorted.Tensor: _searchsorted,
    aten.bucketize.Tensor: lambda x, boundaries, **options: _searchsorted(boundaries, x, **options),
    aten.unfold.default: _unfold,
    aten.unfold_backward.default: _unfold_backward,
    aten.im2col.default: _im2col,
    aten.col2im.default: _col2im,
    **{getattr(aten, f"reflection_pad{dims}d").default: _mirror for dims in (1, 2, 3)},
    **{getattr(aten, f"reflection_pad{dims}d_backward").default: _mirror_backward for dims in (1, 2, 3)},
    **{getattr(aten, f"replication_pad{dims}d").default: _replicate for dims in (1, 2, 3)},
    **{getattr(aten, f"replication_pad{dims}d_backward").default: _replicate_backward for dims in (1, 2, 3)},
}  # fmt: skip
