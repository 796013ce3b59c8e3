"""Backward passes of convolutions in ONNX.

onnxruntime has no backward operations, so they are composed of operations that it runs fast. Which way is fastest
depends on the shape; `benchmarks/convolutions.py` measures the choices made below.

Shapes: x (B, I, *size), dy (B, O, *out), weight (O, I / groups, *kernel).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnxscript import opset18

from cutlayer_export.onnx.sums import sum_of_samples
from cutlayer_export.onnx.values import integers, sizes

__all__ = ["grad_input", "grad_weight"]

op: Any = opset18  # its type hints do not know numpy arrays


_FEW = 8
"""A convolution that gives so few channels is slow; its transpose is not, though it runs on one thread."""
_NARROW, _MANY_PLACES = 64, 2048
"""Most inputs times taps whose windows a convolution copies; on images of so many places it does for all of them."""
_LARGE = 28
"""The least size of images that are shifted whole."""
_MOST_GATHERED = 1 << 15
"""Most entries of a sample that are gathered at once."""


def grad_input(
    dy: Any,
    weight: Any,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """See `operators.convolution_grad_input`."""
    shape, out = sizes(weight), sizes(dy)[2:]
    kernel, dims = shape[2:], len(size)
    if transposed:
        return op.Conv(dy, weight, strides=stride, pads=[*padding, *padding], dilations=dilation, group=groups)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    depthwise = shape[0] == groups and shape[1] == 1
    few = groups == 1 and shape[1] <= _FEW and shape[1] < shape[0]
    if (
        not few
        and (groups == 1 or depthwise)
        and max(stride) == 1
        and all(r >= p for r, p in zip(reach, padding, strict=True))
    ):
        # A convolution with the kernel rotated by 180 degrees and its input and output channels swapped.
        turned = _turned(weight, shape)
        turned = turned if depthwise else op.Transpose(turned, perm=[1, 0, *range(2, 2 + dims)])
        margin = [r - p for r, p in zip(reach, padding, strict=True)]
        return op.Conv(dy, turned, pads=margin * 2, dilations=dilation, group=groups)
    covered = [(o - 1) * s - 2 * p + r + 1 for o, s, p, r in zip(out, stride, padding, reach, strict=True)]
    missing = [full - seen for full, seen in zip(size, covered, strict=True)]  # rows that no window reached
    geometry = {"strides": stride, "pads": [*padding, *padding], "dilations": dilation, "group": groups}
    if all(m < max(s, d) for m, s, d in zip(missing, stride, dilation, strict=True)):
        return op.ConvTranspose(dy, weight, output_padding=missing, **geometry)
    return op.Pad(op.ConvTranspose(dy, weight, **geometry), integers([0] * (2 + dims) + [0, 0, *missing]))


def _turned(weight: Any, shape: Sequence[int]) -> Any:
    """The kernel rotated by 180 degrees: a product with a permutation matrix is faster than slicing backwards."""
    taps = math.prod(shape[2:])
    if taps == 1:
        return weight
    flipped = op.Constant(value=onnx_ir.tensor(np.eye(taps, dtype=np.float32)[::-1].copy()))
    return op.Reshape(op.MatMul(op.Reshape(weight, integers([-1, taps])), flipped), integers(shape))


class _Geometry(NamedTuple):
    """One convolution without groups; ``size``, ``out``, ``kernel`` and the rest hold one number per dimension."""

    inputs: int
    outputs: int
    size: list[int]
    out: list[int]
    kernel: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def after(self) -> list[int]:
        """Padding needed after the input, so that every window is complete."""
        ends = zip(self.out, self.stride, self.dilation, self.kernel, self.size, self.padding, strict=True)
        return [max(0, (o - 1) * s + d * (k - 1) + 1 - size - p) for o, s, d, k, size, p in ends]


def grad_weight(
    x: Any,
    dy: Any,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """See `operators.convolution_grad_weight`."""
    if transposed:  # it is a convolution backwards, so input and output change places
        x, dy = dy, x
    size, out, kernel = sizes(x)[2:], sizes(dy)[2:], list(shape[2:])
    lists = (size, out, kernel, list(stride), list(padding), list(dilation))
    if groups > 1 and shape[1] == 1 and shape[0] == groups and len(kernel) == 2:
        return _depthwise(x, dy, _Geometry(groups, groups, *lists))
    whole = _Geometry(shape[1], shape[0] // groups, *lists)
    if groups == 1 and _suits_columns(whole):
        return _by_columns(x, dy, whole)
    if groups == 1 and _suits_shifts(whole):
        return _by_shifts(x, dy, whole)
    return _by_pixels(x, dy, whole, groups)


def _suits_columns(of: _Geometry) -> bool:
    rows = of.inputs * of.taps
    return of.taps == 1 or (rows <= _NARROW and (rows <= of.outputs or math.prod(of.out) >= _MANY_PLACES))


def _suits_shifts(of: _Geometry) -> bool:
    keeps_size = max(of.stride) == max(of.dilation) == 1 and of.size == of.out
    return len(of.kernel) == 2 and keeps_size and min(of.out) >= _LARGE and of.inputs >= 2 * _FEW


def _by_columns(x: Any, dy: Any, of: _Geometry) -> Any:
    """For few inputs or taps: one product per sample with all windows side by side, summed over the batch."""
    columns = _strided(x, of) if of.taps == 1 else _columns(x, of)
    columns = op.Reshape(columns, integers([-1, of.inputs * of.taps, math.prod(of.out)]))
    flat = op.Reshape(dy, integers([-1, of.outputs, math.prod(of.out)]))
    each = op.MatMul(flat, op.Transpose(columns, perm=[0, 2, 1]))
    return sum_of_samples(each, [of.outputs, of.inputs, *of.kernel])


def _strided(x: Any, of: _Geometry) -> Any:
    """The entries of x that a kernel of one tap reads."""
    padded = _padded(x, of, [0, 0], [])
    if max(of.stride) == 1:
        return padded
    stops = [s * (o - 1) + 1 for s, o in zip(of.stride, of.out, strict=True)]
    return op.Slice(padded, integers([0] * len(stops)), integers(stops), integers(range(2, 2 + len(stops))),
                    integers(of.stride))  # fmt: skip


def _padded(x: Any, of: _Geometry, before: list[int], behind: list[int]) -> Any:
    """Pad the axes of a window, between others, so that every window is complete."""
    if not any(of.padding) and not any(of.after):
        return x
    return op.Pad(x, integers([*before, *of.padding, *behind, *before, *of.after, *behind]))


def _columns(x: Any, of: _Geometry) -> Any:
    """All windows side by side, (B, I * taps, *out): a convolution that copies each entry of each window."""
    rows = of.inputs * of.taps
    copies = op.Constant(value=onnx_ir.tensor(np.eye(rows, dtype=np.float32).reshape(rows, of.inputs, *of.kernel)))
    return op.Conv(x, copies, strides=of.stride, pads=[*of.padding, *of.padding], dilations=of.dilation)


def _by_shifts(x: Any, dy: Any, of: _Geometry) -> Any:
    """For large images: x shifted by each kernel column, dy shifted by each kernel row, and one product per column."""
    (height, width), (rows, columns), (top, left) = of.size, of.kernel, of.padding
    tall = height + rows - 1
    margin = op.Pad(dy, integers([0, 0, rows - 1, 0, 0, 0, rows - 1, 0]))
    row_of = [[rows - 1 - row + line for line in range(tall)] for row in range(rows)]
    shifted_dy = op.Gather(margin, integers(row_of), axis=2)
    shifted_dy = op.Reshape(shifted_dy, integers([-1, of.outputs * rows, tall * width]))
    parts = []
    for column in range(columns):
        pads = [0, 0, top, left - column, 0, 0, rows - 1 - top, column - left]  # negative ones crop
        shifted_x = op.Reshape(op.Pad(x, integers(pads)), integers([-1, of.inputs, tall * width]))
        each = op.MatMul(shifted_dy, op.Transpose(shifted_x, perm=[0, 2, 1]))
        parts.append(sum_of_samples(each, [of.outputs, rows, of.inputs, 1]))
    return op.Transpose(op.Concat(*parts, axis=3), perm=[0, 2, 1, 3])


def _by_pixels(x: Any, dy: Any, of: _Geometry, groups: int) -> Any:
    """Products over all places of all samples, with the samples innermost, so that a window is gathered in long pieces.

    As many kernel taps at a time as `_MOST_GATHERED` allows. Gathering uses all threads, as slicing does not.
    """
    order = [1, *range(2, 2 + len(of.kernel)), 0]
    flat = op.Reshape(op.Transpose(dy, perm=order), integers([groups, of.outputs, -1]))
    pixels = _padded(op.Transpose(x, perm=order), of, [0], [0])
    whole = [before + n + after for before, n, after in zip(of.padding, of.size, of.after, strict=True)]
    pixels = op.Reshape(pixels, integers([groups * of.inputs, math.prod(whole), -1]))
    taps, places = _places(of, whole)
    first_place = integers(places)
    at_once = max(1, _MOST_GATHERED // (groups * of.inputs * places.size))
    parts = []
    for first in range(0, of.taps, at_once):
        piece = taps[first : first + at_once]
        gathered = op.Gather(pixels, op.Add(integers(piece), first_place), axis=1)
        rows = op.Reshape(gathered, integers([groups, of.inputs * len(piece), -1]))
        product = op.MatMul(flat, op.Transpose(rows, perm=[0, 2, 1]))
        parts.append(op.Reshape(product, integers([groups * of.outputs, of.inputs, len(piece)])))
    joined = op.Concat(*parts, axis=2) if len(parts) > 1 else parts[0]
    return op.Reshape(joined, integers([groups * of.outputs, of.inputs, *of.kernel]))


def _places(of: _Geometry, whole: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat indices in images of size ``whole``: a tap's, (taps, 1), plus a place's, (places,), is what they multiply."""
    at = np.arange(math.prod(whole)).reshape(whole)
    taps = at[tuple(slice(0, k * d, d) for k, d in zip(of.kernel, of.dilation, strict=True))]
    places = at[tuple(slice(0, o * s, s) for o, s in zip(of.out, of.stride, strict=True))]
    return taps.reshape(-1, 1), places.reshape(-1)


def _depthwise(x: Any, dy: Any, of: _Geometry) -> Any:
    """One product per channel and kernel row, between whole rows of x and dy; its diagonals hold the terms to add."""
    (rows, columns), (_, out_width) = of.kernel, of.out
    padded = _padded(op.Transpose(x, perm=[1, 0, 2, 3]), of, [0, 0], [])
    width = of.size[1] + of.padding[1] + of.after[1]
    flat = op.Reshape(op.Transpose(dy, perm=[1, 0, 2, 3]), integers([of.inputs, -1, out_width]))
    products = []
    for row in range(rows):
        start = row * of.dilation[0]
        end = start + of.stride[0] * (of.out[0] - 1) + 1
        lines = op.Slice(padded, integers([start]), integers([end]), integers([2]), integers(of.stride[:1]))
        lines = op.Reshape(lines, integers([of.inputs, -1, width]))
        product = op.MatMul(op.Transpose(lines, perm=[0, 2, 1]), flat)
        products.append(op.Reshape(product, integers([of.inputs, 1, width * out_width])))
    diagonals = op.Gather(op.Concat(*products, axis=1), integers(_diagonals(of, columns, out_width)), axis=2)
    summed = op.ReduceSum(diagonals, integers([3]), keepdims=0)
    return op.Reshape(summed, integers([of.inputs, 1, rows, columns]))


def _diagonals(of: _Geometry, columns: int, out_width: int) -> NDArray[np.int64]:
    """The flat indices in a (width, out_width) product of the entries that belong to each kernel column."""
    at = np.arange(out_width)
    starts = of.dilation[1] * np.arange(columns)
    return (of.stride[1] * at + starts[:, None]) * out_width + at
