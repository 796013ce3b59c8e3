"""Adaptive feature-wise quantization: the second stage of SplitFC (Oh et al., arXiv 2307.10805).

A column is one feature over the batch. The columns with the widest ranges are quantized uniformly, each with its own
number of levels between its own two ends, which are themselves quantized; of the other columns only the mean travels.
Which columns are wide, and how many levels each gets, follows from the bit budget (`levels`).

Payload, padded to the size that the settings allow:

    7 float32   span of the lower ends, of the upper ends, and of the means; fineness c
    bitmap      which columns are wide
    digits      the ends of the wide columns, the means of the others, then the entries of the wide columns, grouped by
                their number of levels

The numbers of levels do not travel: the receiver derives them from the ends and c, as the sender does.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutlayer_core.codecs.base import NOTHING, Arrays, BaseCodec, Encoded, Payload, check_length, rows
from cutlayer_core.codecs.levels import optimal_levels, whole_levels
from cutlayer_core.codecs.radix import pack_digits, packed_bits, unpack_digits
from cutlayer_core.errors import CodecError

__all__ = ["MAX_BITS_PER_ENTRY", "Fwq"]

MAX_BITS_PER_ENTRY = 16.0
_ENDS = 200
"""Quantization levels of an end, as in a public reimplementation; we do not know the paper's number."""
_HEAD_BYTES = 4 * 7
_FINENESS = (1e-6, 1e10)
"""Search range: from 2 levels for the widest column to more than any budget allows."""
_ROUNDING = 1e-6
"""Tolerance: a budget that was divided by the number of entries is multiplied by it again."""
_LARGEST = 1e37
"""Values beyond this count as not finite."""
_NARROW = {2: 1.0, 3: 1.2, 4: 1.5, 5: 1.7, 6: 1.9}
"""By number of levels: within how many standard deviations means are best quantized, if levels are this few; a bit more
than for a normal distribution (Max, 1960), since their tails are heavier."""
_Matrix = NDArray[np.float32]
_Floats = NDArray[np.float64]


class Fwq(BaseCodec, frozen=True, tag="fwq"):
    """Spends ``bits_per_entry`` where they reduce the squared error most; for either direction.

    In an answer to SplitFC, which needs only some columns of the gradient, those columns get the budget of all. A batch
    whose budget does not cover the minimum (head, bitmap, one bit per column) takes the minimum, and comes out as
    little more than means.
    """

    bits_per_entry: Annotated[float, msgspec.Meta(gt=0, le=MAX_BITS_PER_ENTRY)] = 0.4

    def for_share(self, share: float) -> "Fwq":
        """See `BaseCodec`."""
        return msgspec.structs.replace(self, bits_per_entry=self.bits_per_entry / share)

    def encode(self, tensor: NDArray[np.float32], seed: int = 0, memory: Arrays = NOTHING) -> Encoded:
        """Encode float32 of any shape; a non-finite entry turns it all into NaN."""
        matrix = np.ascontiguousarray(tensor).reshape(rows(tensor.shape))
        size = self.bits(tensor.shape) // 8
        low, high = matrix.min(axis=0).astype(np.float64), matrix.max(axis=0).astype(np.float64)
        if not (low.min() > -_LARGEST and high.max() < _LARGEST):  # negated, since every comparison with NaN is false
            return Encoded(np.full(size // 4 + 1, np.nan, "<f4").tobytes()[:size], {})
        columns = _divide(matrix, low, high, 8 * size)
        return Encoded(_write(matrix, columns).ljust(size, b"\0"), {})

    def decode(self, payload: Payload, params: Mapping[str, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Float32 of ``shape``. Raises `CodecError` on a wrong length, or for more levels than there are bits for."""
        check_length(payload, shape, self.bits)
        return _read(payload, rows(shape)).reshape(shape)

    def bits(self, shape: tuple[int, ...]) -> int:
        """``bits_per_entry`` times the number of entries, in whole bytes, but at least the minimum."""
        samples, columns = rows(shape)
        least = _HEAD_BYTES + -(-columns // 8) + -(-packed_bits(2, columns) // 8)
        return 8 * max(int(self.bits_per_entry * samples * columns + _ROUNDING) // 8, least)


class _Columns(NamedTuple):
    """What both sides know before the entries, and everything that follows from it."""

    head: NDArray[np.float32]
    wide: NDArray[np.intp]
    narrow: NDArray[np.intp]
    ends: NDArray[np.uint16]
    """(2, wide): the lower and the upper end of each, quantized."""

    def low_and_range(self) -> tuple[_Floats, _Floats]:
        """Lower end and range of the wide columns."""
        low = _dequantize(self.ends[0], self.head[:2], _ENDS)
        high = _dequantize(self.ends[1], self.head[2:4], _ENDS)
        return low, np.maximum(high - low, 0.0)

    def levels(self, samples: int) -> tuple[NDArray[np.int64], int]:
        """Numbers of levels: of each wide column, and of the means."""
        ranges = self.low_and_range()[1]
        span = float(self.head[5]) - float(self.head[4])
        return _levels(ranges, span, samples, float(self.head[6]))

    def bits(self, samples: int) -> int:
        """Bits after head and bitmap."""
        levels, mean_levels = self.levels(samples)
        found, counts = np.unique(levels, return_counts=True)
        entries = sum(packed_bits(int(each), int(count) * samples) for each, count in zip(found, counts, strict=True))
        return packed_bits(_ENDS, self.ends.size) + packed_bits(mean_levels, self.narrow.size) + entries


def _levels(ranges: _Floats, span: float, samples: int, fineness: float) -> tuple[NDArray[np.int64], int]:
    """Levels of columns with these ranges, and of means over this span: u is a**2 c, and 2 B a**2 c for the means.

    Ranges are relative to the widest one, so that the magnitude of c does not depend on that of the tensor.
    """
    widest = max(float(ranges.max(initial=0.0)), span) or 1.0
    relative = np.append(ranges, span) / widest
    u = relative * relative * fineness
    u[-1] *= 2 * samples
    levels = whole_levels(u)
    return levels[:-1], int(levels[-1])


def _divide(matrix: _Matrix, low: _Floats, high: _Floats, bits: int) -> _Columns:
    """Choose the wide columns, and the greatest fineness that the bits allow."""
    samples, count = matrix.shape
    bits -= 8 * (_HEAD_BYTES + -(-count // 8))
    means = matrix.mean(axis=0, dtype=np.float64)
    order = np.argsort(low - high, kind="stable")
    inside = (matrix > low.astype(np.float32)).mean(axis=0)  # after a ReLU, most are exactly at the lower end
    number = _how_many_wide(
        _Summary((high - low)[order], inside[order], means[order], matrix.var(axis=0)[order]), samples, bits
    )
    wide, narrow = np.sort(order[:number]), np.sort(order[number:])
    head = np.zeros(7, np.float32)
    for at, values in ((0, low[wide]), (2, high[wide]), (4, means[narrow])):
        if values.size:
            head[at : at + 2] = values.min(), values.max()
    ends = np.stack([_quantize(low[wide], head[:2], _ENDS), _quantize(high[wide], head[2:4], _ENDS)])
    columns = _finest(_Columns(head, wide, narrow, ends), samples, bits)
    reach = _NARROW.get(columns.levels(samples)[1], math.inf) * means[narrow].std() if narrow.size else 0.0
    if reach < head[5] - head[4]:
        middle = means[narrow].mean()
        head[4:6] = max(head[4], middle - reach), min(head[5], middle + reach)
        columns = _finest(columns, samples, bits)
    return columns


def _finest(columns: _Columns, samples: int, bits: int) -> _Columns:
    """The columns with the greatest fineness that the bits allow, written into the head."""
    least, most = map(math.log, _FINENESS)
    for _ in range(26):
        middle = (least + most) / 2
        columns.head[6] = math.exp(middle)
        least, most = (middle, most) if columns.bits(samples) <= bits else (least, middle)
    columns.head[6] = math.exp(least)
    return columns


class _Summary(NamedTuple):
    """Columns in descending order of range: range, share of entries above the lower end, mean and variance."""

    ranges: _Floats
    inside: _Floats
    means: _Floats
    variances: NDArray[np.float32]


def _how_many_wide(columns: _Summary, samples: int, bits: int) -> int:
    """How many of the first columns to treat as wide, for the least expected squared error.

    Tries seventeen candidates up to the most that fit; for each, the optimal levels of at most 64 columns stand for
    all.
    """
    count = columns.ranges.size
    most = int((bits - count) // (samples + 2 * math.log2(_ENDS)))
    numbers = np.unique(np.linspace(0, max(0, min(most, count)), 17).astype(int))
    widest = float(columns.ranges[0]) or 1.0
    taken = np.minimum((np.arange(64) + 0.5) / 64 * numbers[:, None], count - 1).astype(int)
    squares, each = (columns.ranges[taken] / widest) ** 2, numbers[:, None] / 64
    span = _suffix_span(columns.means)[numbers] / widest
    rest = count - numbers
    least, greatest = (np.full(numbers.size, math.log(bound)) for bound in _FINENESS)
    for _ in range(16):
        middle = (least + greatest) / 2
        levels, mean_levels = (
            _bounded(squares * np.exp(middle)[:, None]),
            _bounded(span**2 * 2 * samples * np.exp(middle)),
        )
        spent = samples * (each * np.log2(levels)).sum(axis=1) + rest * np.log2(mean_levels)
        fits = spent + 2 * numbers * math.log2(_ENDS) <= bits
        least, greatest = np.where(fits, middle, least), np.where(fits, greatest, middle)
    uniform = (each * columns.inside[taken] * squares / (levels - 1) ** 2).sum(axis=1) / 12
    left_out = np.append(np.cumsum(columns.variances[::-1])[::-1], 0.0)[numbers] / widest**2
    error = uniform + left_out + rest * span**2 / (mean_levels - 1) ** 2 / 12
    return int(numbers[np.argmin(error)])


def _bounded(u: _Floats) -> _Floats:
    return np.maximum(optimal_levels(u), 2.0)


def _suffix_span(values: _Floats) -> _Floats:
    """For each n, the span of ``values[n:]``, and a last entry, 0, for no values."""
    backwards = values[::-1]
    spans = np.maximum.accumulate(backwards) - np.minimum.accumulate(backwards)
    return np.append(spans[::-1], 0.0)


def _write(matrix: _Matrix, columns: _Columns) -> bytes:
    samples, count = matrix.shape
    levels, mean_levels = columns.levels(samples)
    low, ranges = columns.low_and_range()
    bitmap = np.zeros(count, np.uint8)
    bitmap[columns.wide] = 1
    means = matrix[:, columns.narrow].mean(axis=0, dtype=np.float64)
    streams = [
        pack_digits(columns.ends.reshape(-1), _ENDS),
        pack_digits(_quantize(means, columns.head[4:6], mean_levels), mean_levels),
    ]
    for radix, chosen in _by_level(levels):
        scale = np.divide(radix - 1, ranges[chosen], out=np.zeros(chosen.size), where=ranges[chosen] > 0)
        steps = (matrix[:, columns.wide[chosen]] - low[chosen].astype(np.float32)) * scale.astype(np.float32)
        digits = np.clip(np.rint(steps), 0, radix - 1).astype(np.uint16)
        streams.append(pack_digits(digits.reshape(-1), radix))
    packed = np.packbits(np.concatenate(streams), bitorder="little")
    return columns.head.astype("<f4").tobytes() + np.packbits(bitmap, bitorder="little").tobytes() + packed.tobytes()


def _read(payload: Payload, shape: tuple[int, int]) -> _Matrix:
    samples, count = shape
    data = np.frombuffer(payload, np.uint8)
    head = data[:_HEAD_BYTES].view("<f4").astype(np.float32)
    if np.isnan(head).any():
        return np.full(shape, np.nan, np.float32)
    ordered = head[0] <= head[1] and head[2] <= head[3] and head[4] <= head[5]
    if not (ordered and np.abs(head[:6]).max() < _LARGEST and _FINENESS[0] / 2 <= head[6] <= 2 * _FINENESS[1]):
        raise CodecError("feature-wise quantization: the spans of a payload cannot be")
    at = _HEAD_BYTES + -(-count // 8)
    bitmap = np.unpackbits(data[_HEAD_BYTES:at], count=count, bitorder="little")
    wide, narrow = np.flatnonzero(bitmap), np.flatnonzero(bitmap == 0)
    stream = _Stream(np.unpackbits(data[at:], bitorder="little"))
    columns = _Columns(head, wide, narrow, stream.take(_ENDS, 2 * wide.size).reshape(2, -1))
    levels, mean_levels = columns.levels(samples)
    low, ranges = columns.low_and_range()
    matrix = np.empty(shape, np.float32)
    matrix[:, narrow] = _dequantize(stream.take(mean_levels, narrow.size), head[4:6], mean_levels)
    for radix, chosen in _by_level(levels):
        digits = stream.take(radix, samples * chosen.size).reshape(samples, -1)
        matrix[:, wide[chosen]] = digits * (ranges[chosen] / (radix - 1)) + low[chosen]
    return matrix


def _by_level(levels: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Each number of levels, and which of the wide columns have it, both ascending."""
    order = np.argsort(levels, kind="stable")
    found, starts = np.unique(levels[order], return_index=True)
    for radix, start, end in zip(found, starts, np.append(starts, levels.size)[1:], strict=True):
        yield int(radix), order[start:end]


class _Stream:
    """A stream of bits from which digits are read."""

    def __init__(self, bits: NDArray[np.uint8]) -> None:
        self._bits, self._at = bits, 0

    def take(self, radix: int, count: int) -> NDArray[np.uint16]:
        """The next ``count`` digits. Raises `CodecError` if fewer are left."""
        end = self._at + packed_bits(radix, count)
        if end > self._bits.size:
            raise CodecError("feature-wise quantization: a payload has more levels than bits")
        digits = unpack_digits(self._bits[self._at : end], radix, count)
        self._at = end
        return digits


def _quantize(values: _Floats, span: NDArray[np.float32], levels: int) -> NDArray[np.uint16]:
    low, width = float(span[0]), float(span[1]) - float(span[0])
    steps = np.rint((values - low) * ((levels - 1) / width if width > 0 else 0.0))
    return np.clip(steps, 0, levels - 1).astype(np.uint16)


def _dequantize(digits: NDArray[np.uint16], span: NDArray[np.float32], levels: int) -> _Floats:
    width = float(span[1]) - float(span[0])
    return digits.astype(np.float64) * (width / (levels - 1)) + float(span[0])
