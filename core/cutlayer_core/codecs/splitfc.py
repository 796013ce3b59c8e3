"""SplitFC: adaptive feature-wise dropout, then feature-wise quantization of what is left.

Oh, Lee, Brinton & Jeon, "Communication-efficient split learning via adaptive feature-wise compression" (arXiv
2307.10805).
"""

import math
from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutlayer_core.codecs.base import NOTHING, Arrays, BaseCodec, Encoded, Payload, check_length, rows
from cutlayer_core.codecs.fwq import MAX_BITS_PER_ENTRY, Fwq
from cutlayer_core.errors import CodecError

__all__ = ["SplitFC", "draw", "keep_probabilities"]

_UNIFORM = 0.1
"""Share of the probability that is the same for all columns, so that none is scaled by more than ten times the
ratio."""


class SplitFC(BaseCodec, frozen=True, tag="splitfc"):
    """One in ``ratio`` columns travels, divided by its probability, within ``bits_per_entry`` bits per original entry.

    Exactly one in ``ratio`` columns is kept. The paper draws each column independently, with the same probabilities; a
    fixed number has the same mean, and makes the sizes of payload and gradient known in advance (docs/adr/0011). The
    cut gradient comes back only for the columns that were sent, through any ``down`` codec; the paper's is `Fwq`.

    Payload: one bit per column, then the kept columns as `Fwq` encodes them.
    """

    bits_per_entry: Annotated[float, msgspec.Meta(gt=0, le=MAX_BITS_PER_ENTRY)] = 0.4
    ratio: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 4.0

    @property
    def draws(self) -> bool:
        """It drops features at random."""
        return True

    @property
    def steady(self) -> Fwq:
        """Without dropout: noise does not average out in data that are kept and trained on again."""
        return Fwq(bits_per_entry=self.bits_per_entry)

    def encode(self, tensor: NDArray[np.float32], seed: int = 0, memory: Arrays = NOTHING) -> Encoded:
        """Encode float32 of any shape, batch first; a non-finite entry turns all into NaN."""
        samples, columns = rows(tensor.shape)
        matrix = np.ascontiguousarray(tensor).reshape(samples, columns)
        probabilities = keep_probabilities(_deviations(matrix, tensor.shape), self._kept(columns))
        kept = draw(probabilities, np.random.default_rng(seed))
        scale = (1 / probabilities[kept]).astype(np.float32)
        bitmap = np.zeros(columns, np.uint8)
        bitmap[kept] = 1
        with np.errstate(over="ignore"):
            quantized = self._quantizer(tensor.shape).encode(matrix[:, kept] * scale)
        payload = np.packbits(bitmap, bitorder="little").tobytes() + bytes(quantized.payload)
        return Encoded(payload, {}, {"kept": kept, "scale": scale})

    def decode(self, payload: Payload, params: Mapping[str, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Float32 of ``shape``, 0 in columns that were not sent. Raises `CodecError` for impossible bytes."""
        check_length(payload, shape, self.bits)
        kept = self._columns(payload, shape)
        matrix = np.zeros(rows(shape), np.float32)
        quantized = memoryview(payload)[self._bitmap_bytes(shape) :]
        matrix[:, kept] = self._quantizer(shape).decode(quantized, {}, self.part_shape(shape))
        return matrix.reshape(shape)

    def bits(self, shape: tuple[int, ...]) -> int:
        """``bits_per_entry`` times the number of entries, in whole bytes, but at least the minimum."""
        return 8 * self._bitmap_bytes(shape) + self._quantizer(shape).bits(self.part_shape(shape))

    def part_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """See `BaseCodec`."""
        samples, columns = rows(shape)
        return samples, self._kept(columns)

    def select(
        self, gradient: NDArray[np.float32], payload: Payload, shape: tuple[int, ...], first: int = 0
    ) -> NDArray[np.float32]:
        """The gradient of the columns that were sent."""
        return gradient.reshape(rows(gradient.shape))[:, self._columns(payload, shape)]

    def correct(
        self, part: NDArray[np.float32], shape: tuple[int, ...], context: Arrays = NOTHING
    ) -> NDArray[np.float32]:
        """The gradient with respect to the columns before they were scaled; 0 for those that were not sent."""
        matrix = np.zeros(rows(shape), np.float32)
        matrix[:, context["kept"]] = part * context["scale"]
        return matrix.reshape(shape)

    def _kept(self, columns: int) -> int:
        return max(1, round(columns / self.ratio))

    def _bitmap_bytes(self, shape: tuple[int, ...]) -> int:
        return -(-rows(shape)[1] // 8)

    def _quantizer(self, shape: tuple[int, ...]) -> Fwq:
        """The quantizer, with the bits that the bitmap leaves."""
        left = max(int(self.bits_per_entry * math.prod(shape)) // 8 - self._bitmap_bytes(shape), 0)
        return Fwq(bits_per_entry=8 * left / math.prod(self.part_shape(shape)))

    def _columns(self, payload: Payload, shape: tuple[int, ...]) -> NDArray[np.intp]:
        columns = rows(shape)[1]
        data = np.frombuffer(payload, np.uint8, self._bitmap_bytes(shape))
        kept = np.flatnonzero(np.unpackbits(data, count=columns, bitorder="little"))
        if kept.size != self._kept(columns):
            raise CodecError(f"SplitFC: {kept.size} of {columns} columns were kept, expected {self._kept(columns)}")
        return kept


def keep_probabilities(deviations: NDArray[np.float64], kept: int) -> NDArray[np.float64]:
    """Probabilities that sum to ``kept``, none above 1: proportional to sigma + C, with the least C >= 0 that does it.

    A tenth of the probability is uniform: a column of zeros in this batch may be needed in the next one, and otherwise
    the inverse would be unbounded.
    """
    count, total, greatest = deviations.size, float(deviations.sum()), float(deviations.max())
    if kept >= count or not 0 < total < math.inf:
        return np.full(count, min(kept / count, 1.0))
    bias = max(0.0, (kept * greatest - total) / (count - kept))
    adaptive = kept * (deviations + bias) / (total + count * bias)
    return np.minimum((1 - _UNIFORM) * adaptive + _UNIFORM * kept / count, 1.0)


def draw(probabilities: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.intp]:
    """Draw as many columns as the probabilities sum to: systematic sampling in random order (Madow, 1949)."""
    order = random.permutation(probabilities.size)
    reached = np.cumsum(probabilities[order])
    reached *= round(reached[-1]) / reached[-1]  # so that rounding neither adds nor loses one
    marks = np.floor(np.append(0.0, reached) + random.random())
    marks[-1] = marks[0] + round(reached[-1])
    return np.sort(order[np.diff(marks) > 0])


def _deviations(matrix: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Standard deviation of each column, relative to the range of its channel (axis 1 of images) over batch and space."""
    channels = shape[1] if len(shape) == 4 else 1
    low, high = matrix.min(axis=0).reshape(channels, -1), matrix.max(axis=0).reshape(channels, -1)
    span = high.max(axis=1).astype(np.float64) - low.min(axis=1)
    if not np.isfinite(span).all():
        return np.zeros(matrix.shape[1])
    deviations = matrix.std(axis=0).astype(np.float64)
    scaled = deviations.reshape(channels, -1) * np.divide(1, span, out=np.zeros_like(span), where=span > 0)[:, None]
    relative: NDArray[np.float64] = scaled.reshape(-1)
    return relative
