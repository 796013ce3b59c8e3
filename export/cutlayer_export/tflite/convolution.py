"""Convolutions and their backward passes.

The runtime has no backward operations. Gradients of the input are convolutions with rotated kernels, and gradients of
the weights are matrix products or convolutions of images with images. `benchmarks/client_step.py` measures the choices.

Shapes are as in `operators`; internally images are (B, H, W, C) and kernels (O, kh, kw, I). Signals are images of
height 1.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from cutlayer_export.tflite.graph import Graph, Tensor
from cutlayer_export.tflite.normalisation import channel_mean
from cutlayer_export.tflite.spread import spread
from cutlayer_export.tflite.values import Value, count, images, plain, scalar

__all__ = ["RULES"]

aten, ours = torch.ops.aten, torch.ops.cutlayer
_KERNEL, _KERNEL_BACK, _DEPTHWISE, _EXCHANGED = (0, 2, 3, 1), (0, 3, 1, 2), (1, 2, 3, 0), (3, 1, 2, 0)

_FEW = 16
"""With fewer input channels than this, a separate product per kernel tap does not pay."""


class _Sweep(NamedTuple):
    """How a kernel moves over images: two numbers each, for height and width."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, dims: int, stride: Any, padding: Any, dilation: Any, groups: int) -> "_Sweep":
        if dims > 2:
            raise NotImplementedError(f"a convolution of {dims} dimensions")
        lead = 2 - dims
        along, around, apart = ((n,) * lead + tuple(v) for n, v in ((1, stride), (0, padding), (1, dilation)))
        return cls(along, around, apart, groups)

    def reach(self, kernel: Sequence[int]) -> list[int]:
        """How far a window extends beyond its first entry."""
        return [d * (k - 1) for d, k in zip(self.dilation, kernel, strict=True)]

    def keeps_size(self, kernel: Sequence[int]) -> bool:
        return max(self.stride) == 1 and all(2 * p == r for p, r in zip(self.padding, self.reach(kernel), strict=True))


def _flat(graph: Graph, value: Value) -> tuple[Tensor, Callable[[Tensor], Value]]:
    """Images or signals as images with channels last, and a function that turns them back."""
    if len(value.shape) == 3:
        batch, channels, length = value.shape
        x = graph.reshape(graph.transpose(plain(graph, value), (0, 2, 1)), (batch, 1, length, channels))
        return x, lambda y: Value(graph.transpose(graph.reshape(y, (batch, *y.shape[2:])), (0, 2, 1)))
    return images(graph, value), lambda y: Value(y, images=True)


def _kernel(graph: Graph, weight: Value) -> Tensor:
    """The kernel as (O, I, kh, kw), also for signals."""
    tensor = plain(graph, weight)
    return tensor if len(tensor.shape) == 4 else graph.reshape(tensor, (*tensor.shape[:2], 1, tensor.shape[2]))


def _convolution(
    graph: Graph, x: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Sequence[int], groups: int,
) -> Value:  # fmt: skip
    sweep = _Sweep.of(len(x.shape) - 2, stride, padding, dilation, groups)
    rows, back = _flat(graph, x)
    kernel = _kernel(graph, weight)
    shift = None if bias is None else bias.tensor
    if not transposed:
        return back(_swept(graph, rows, kernel, shift, sweep))
    extra = (*[0] * (4 - len(x.shape)), *output_padding)
    reach = sweep.reach(kernel.shape[2:])
    size = [
        (n - 1) * s - 2 * p + r + e + 1
        for n, s, p, r, e in zip(rows.shape[1:3], sweep.stride, sweep.padding, reach, extra, strict=True)
    ]
    y = _spread_back(graph, rows, kernel, size, sweep)
    return back(y if shift is None else graph.plus(y, shift))


def _swept(graph: Graph, x: Tensor, kernel: Tensor, bias: Tensor | None, sweep: _Sweep) -> Tensor:
    """A convolution of (B, H, W, C) with (O, C / groups, kh, kw)."""
    same = sweep.keeps_size(kernel.shape[2:])
    if not same:
        x = graph.pad(x, [(0, 0), *((p, p) for p in sweep.padding), (0, 0)])
    if sweep.groups == 1:
        weight = graph.transpose(kernel, _KERNEL)
        return _convolved(graph, "CONV_2D", x, weight, bias, sweep.stride, sweep.dilation, same)
    if kernel.shape[1] == 1 and sweep.groups == x.shape[3]:
        weight = graph.transpose(kernel, _DEPTHWISE)
        return _convolved(graph, "DEPTHWISE_CONV_2D", x, weight, bias, sweep.stride, sweep.dilation, same)
    own = graph.constant([0.0] * kernel.shape[0]) if bias is None else bias
    parts = zip(*(_parts(graph, *each, sweep.groups) for each in ((x, 3), (kernel, 0), (own, 0))), strict=True)
    single = sweep._replace(groups=1, padding=sweep.padding if same else (0, 0))
    return graph.concatenate([_swept(graph, part, weight, shift, single) for part, weight, shift in parts], 3)


def _convolved(
    graph: Graph, kind: str, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int],
    dilation: Sequence[int], same: bool,
) -> Tensor:  # fmt: skip
    """CONV_2D with a weight (O, kh, kw, I), or DEPTHWISE_CONV_2D with one (1, kh, kw, O); ``same`` keeps the size."""
    depthwise = kind == "DEPTHWISE_CONV_2D"
    outputs = weight.shape[3 if depthwise else 0]
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[1:3], strict=True)]
    out = [(n - r - 1) // s + 1 for n, r, s in zip(x.shape[1:3], reach, stride, strict=True)]
    options: dict[str, Any] = {"stride_height": stride[0], "stride_width": stride[1], "padding": int(not same)}
    options |= {"dilation_height": dilation[0], "dilation_width": dilation[1]}
    options |= {"multiplier": outputs // x.shape[3]} if depthwise else {}
    shift = graph.constant([0.0] * outputs) if bias is None else bias
    return graph.add(kind, [x, weight, shift], (x.shape[0], *(x.shape[1:3] if same else out), outputs), **options)


def _parts(graph: Graph, x: Tensor, axis: int, groups: int) -> list[Tensor]:
    """Split an axis into equal parts."""
    width, rank = x.shape[axis] // groups, len(x.shape)
    return [
        graph.slice(
            x,
            [at * width if each == axis else 0 for each in range(rank)],
            [(at + 1) * width if each == axis else None for each in range(rank)],
        )
        for at in range(groups)
    ]


def _grad_input(
    graph: Graph, dy: Value, weight: Value, size: Sequence[int], stride: Any, padding: Any, dilation: Any,
    transposed: bool, _output_padding: Any, groups: int,
) -> Value:  # fmt: skip
    sweep = _Sweep.of(len(size), stride, padding, dilation, groups)
    gradient, back = _flat(graph, dy)
    kernel = _kernel(graph, weight)
    if transposed:
        return back(_swept(graph, gradient, kernel, None, sweep))
    full = (*[1] * (2 - len(size)), *size)
    return back(_spread_back(graph, gradient, kernel, full, sweep))


def _spread_back(graph: Graph, dy: Tensor, kernel: Tensor, size: Sequence[int], sweep: _Sweep) -> Tensor:
    """The transpose of a convolution: dy with zeros between its entries, convolved with rotated kernels."""
    reach = sweep.reach(kernel.shape[2:])
    spaced = spread(graph, dy, sweep.stride)
    before = [r - p for r, p in zip(reach, sweep.padding, strict=True)]
    after = [n + r - b - have for n, r, b, have in zip(size, reach, before, spaced.shape[1:3], strict=True)]
    turned = _turned(graph, kernel)
    inner = _Sweep((1, 1), (0, 0), sweep.dilation, sweep.groups)
    if before == after and all(2 * b == r for b, r in zip(before, reach, strict=True)):
        inner = inner._replace(padding=tuple(before))
    else:
        spaced = _fitted(graph, spaced, before, after)
    outputs, each = kernel.shape[:2]
    if sweep.groups == 1:
        return _swept(graph, spaced, graph.transpose(turned, (1, 0, 2, 3)), None, inner)
    if each == 1 and outputs == sweep.groups:
        return _swept(graph, spaced, turned, None, inner)
    parts = zip(_parts(graph, spaced, 3, sweep.groups), _parts(graph, turned, 0, sweep.groups), strict=True)
    single = inner._replace(groups=1)
    swept = [_swept(graph, part, graph.transpose(w, (1, 0, 2, 3)), None, single) for part, w in parts]
    return graph.concatenate(swept, 3)


def _fitted(graph: Graph, x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Pad height and width; negative margins crop."""
    starts = [0, *(max(-each, 0) for each in before), 0]
    ends = [max(-each, 0) for each in after]
    stops = [None, *(size - end if end else None for size, end in zip(x.shape[1:3], ends, strict=True)), None]
    margins = [(max(low, 0), max(high, 0)) for low, high in zip(before, after, strict=True)]
    return graph.pad(graph.slice(x, starts, stops), [(0, 0), *margins, (0, 0)])


def _turned(graph: Graph, kernel: Tensor) -> Tensor:
    """A kernel (O, I, kh, kw) rotated by 180 degrees: one axis reversed, since version 2.14 cannot reverse two."""
    taps = kernel.shape[2] * kernel.shape[3]
    if taps == 1:
        return kernel
    flat = graph.reshape(kernel, (None, taps))
    return graph.reshape(graph.add("REVERSE_V2", [flat, graph.integers(1)], flat.shape), kernel.shape)


def _grad_weight(
    graph: Graph, x: Value, dy: Value, shape: Sequence[int], stride: Any, padding: Any, dilation: Any,
    transposed: bool, _output_padding: Any, groups: int,
) -> Value:  # fmt: skip
    sweep = _Sweep.of(len(shape) - 2, stride, padding, dilation, groups)
    if transposed:  # it is a convolution backwards, so input and output change places
        x, dy = dy, x
    rows, gradient = _flat(graph, x)[0], _flat(graph, dy)[0]
    kernel = shape[2:] if len(shape) == 4 else (1, shape[2])
    if shape[1] == 1 and groups == rows.shape[3] and groups > 1:
        found = _depthwise_weight(graph, rows, gradient, kernel, sweep)
    else:
        parts = zip(_parts(graph, rows, 3, groups), _parts(graph, gradient, 3, groups), strict=True)
        found = graph.concatenate([_dense_weight(graph, part, each, kernel, sweep) for part, each in parts], 0)
    return Value(graph.reshape(found, shape))


def _windows(graph: Graph, x: Tensor, out: Sequence[int], kernel: Sequence[int], sweep: _Sweep) -> Iterator[Tensor]:
    """For each kernel tap, the entries of x it is multiplied with: (B, *out, C); one by one, to finish with each."""
    x = _whole(graph, x, out, kernel, sweep)
    for tap in itertools.product(*map(range, kernel)):
        starts = [at * d for at, d in zip(tap, sweep.dilation, strict=True)]
        stops = [start + (o - 1) * s + 1 for start, o, s in zip(starts, out, sweep.stride, strict=True)]
        yield graph.slice(x, [0, *starts, 0], [None, *stops, None], [1, *sweep.stride, 1])


def _whole(graph: Graph, x: Tensor, out: Sequence[int], kernel: Sequence[int], sweep: _Sweep) -> Tensor:
    """Pad x so that every window is complete."""
    needed = [(o - 1) * s + r + 1 for o, s, r in zip(out, sweep.stride, sweep.reach(kernel), strict=True)]
    after = [max(n - p - size, 0) for n, p, size in zip(needed, sweep.padding, x.shape[1:3], strict=True)]
    return graph.pad(x, [(0, 0), *zip(sweep.padding, after, strict=True), (0, 0)])


def _dense_weight(graph: Graph, x: Tensor, dy: Tensor, kernel: Sequence[int], sweep: _Sweep) -> Tensor:
    """(O, I, kh, kw): matrix products over all places of all samples, or one convolution.

    The products copy each place of x once per tap, in pieces of I; the convolution copies dy twice, in pieces of O.
    """
    outputs, inputs = dy.shape[3], x.shape[3]
    narrow = inputs == 1 or (inputs < _FEW and outputs <= math.prod(kernel))
    return (_by_products if graph.delegated and not narrow else _by_convolution)(graph, x, dy, kernel, sweep)


def _by_products(graph: Graph, x: Tensor, dy: Tensor, kernel: Sequence[int], sweep: _Sweep) -> Tensor:
    """One product per tap; with few inputs, one product for all taps."""
    outputs, inputs = dy.shape[3], x.shape[3]
    windows = _windows(graph, x, dy.shape[1:3], kernel, sweep)
    if inputs < _FEW:
        found = _products(graph, dy, [graph.concatenate(list(windows), 3)])
    elif tuple(kernel) == (1, 1) and inputs > outputs:  # a product is best if the wider one is transposed
        found = graph.transpose(_products(graph, next(windows), [dy]), (1, 0))
    else:
        found = _products(graph, dy, windows)
    return graph.transpose(graph.reshape(found, (outputs, *kernel, inputs)), _KERNEL_BACK)


def _products(graph: Graph, a: Tensor, others: Iterable[Tensor]) -> Tensor:
    """The rows of a (..., M), transposed, times those of each other tensor (..., N), side by side: (M, all N)."""
    rank = len(a.shape)
    turned = graph.reshape(graph.transpose(a, (rank - 1, *range(rank - 1))), (a.shape[-1], None))
    return graph.concatenate([graph.product(turned, graph.reshape(b, (None, b.shape[-1]))) for b in others], 1)


def _by_convolution(graph: Graph, x: Tensor, dy: Tensor, kernel: Sequence[int], sweep: _Sweep) -> Tensor:
    """One convolution of x with dy: channels swapped with batch, stride with dilation."""
    whole = graph.transpose(_whole(graph, x, dy.shape[1:3], kernel, sweep), _EXCHANGED)
    weight = graph.transpose(dy, _EXCHANGED)
    found = _convolved(graph, "CONV_2D", whole, weight, None, sweep.dilation, sweep.stride, same=False)
    cropped = graph.slice(found, [0, 0, 0, 0], [None, *kernel, None])
    return graph.transpose(cropped, (3, 0, 1, 2))


def _depthwise_weight(graph: Graph, x: Tensor, dy: Tensor, kernel: Sequence[int], sweep: _Sweep) -> Tensor:
    """(O, 1, kh, kw): for each tap the sum of elementwise products."""
    channels, outputs = x.shape[3], dy.shape[3]
    if outputs != channels:
        copies = [at // (outputs // channels) for at in range(outputs)]
        x = graph.add("GATHER", [x, graph.integers(*copies)], (*x.shape[:3], outputs), axis=3)
    windows = _windows(graph, x, dy.shape[1:3], kernel, sweep)
    means = [channel_mean(graph, graph.times(each, dy)) for each in windows]
    total = graph.times(graph.concatenate(means, 1), scalar(graph, count(dy.shape[:3])))
    return graph.transpose(graph.reshape(total, (*kernel, outputs)), (2, 0, 1))


RULES: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: _convolution,
    ours.convolution_grad_input.default: _grad_input,
    ours.convolution_grad_weight.default: _grad_weight,
}
