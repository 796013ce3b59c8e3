"""Top-k sparsification: of each sample, only the entries of greatest magnitude travel."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutlayer_core.codecs.base import NOTHING, Arrays, BaseCodec, Encoded, Payload, check_length, rows
from cutlayer_core.errors import CodecError

__all__ = ["TopK"]


class TopK(BaseCodec, frozen=True, tag="topk"):
    """The ``share`` of a sample's entries with the greatest magnitudes, as floats of ``value_bits``; the others are 0.

    The usual baseline in papers on split learning (as in Zheng et al., arXiv 2305.18469). Entries that were not sent
    have no part in the loss, so the cut gradient comes back only at the places that were sent.

    Payload: for each sample the places of its entries, as a bitmap or as indices, whichever is shorter; then the
        values.
    """

    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    value_bits: Literal[16, 32] = 16

    def encode(self, tensor: NDArray[np.float32], seed: int = 0, memory: Arrays = NOTHING) -> Encoded:
        """Encode float32 of any shape; NaN counts as the greatest magnitude."""
        samples, entries = rows(tensor.shape)
        flat = np.ascontiguousarray(tensor).reshape(samples, entries)
        places = _greatest(flat, self._kept(entries))
        values = np.take_along_axis(flat, places, axis=1)
        if self.value_bits == 16:
            values = np.clip(values, -65504, 65504)
        payload = self._pack(places, entries).tobytes() + values.astype(f"<f{self.value_bits // 8}").tobytes()
        return Encoded(payload, {}, {"places": places})

    def decode(self, payload: Payload, params: Mapping[str, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Float32 of ``shape``. Raises `CodecError` on a wrong length, or for places that no sample can have."""
        check_length(payload, shape, self.bits)
        values = np.frombuffer(payload, f"<f{self.value_bits // 8}", offset=self._places_bytes(shape))
        return _scatter(values.reshape(self.part_shape(shape)), self._unpack(payload, shape), shape)

    def bits(self, shape: tuple[int, ...]) -> int:
        """Places and values; places take one bit per entry or one index per kept entry, whichever is less."""
        samples, entries = rows(shape)
        return 8 * self._places_bytes(shape) + self.value_bits * samples * self._kept(entries)

    def part_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """See `BaseCodec`."""
        samples, entries = rows(shape)
        return samples, self._kept(entries)

    def select(
        self, gradient: NDArray[np.float32], payload: Payload, shape: tuple[int, ...], first: int = 0
    ) -> NDArray[np.float32]:
        """The gradient at the places that were sent."""
        flat = gradient.reshape(rows(gradient.shape))
        return np.take_along_axis(flat, self._unpack(payload, shape)[first : first + len(flat)], axis=1)

    def correct(
        self, part: NDArray[np.float32], shape: tuple[int, ...], context: Arrays = NOTHING
    ) -> NDArray[np.float32]:
        """The gradient at the places that were sent, and 0 elsewhere."""
        return _scatter(part, context["places"], shape)

    def _kept(self, entries: int) -> int:
        return max(1, round(self.share * entries))

    def _place_bits(self, entries: int) -> int:
        """Bits of an index; 0 if a bitmap is shorter."""
        width = max(1, (entries - 1).bit_length())
        return width if width * self._kept(entries) < entries else 0

    def _places_bytes(self, shape: tuple[int, ...]) -> int:
        samples, entries = rows(shape)
        width = self._place_bits(entries)
        return -(-samples * (width * self._kept(entries) if width else entries) // 8)

    def _pack(self, places: NDArray[np.intp], entries: int) -> NDArray[np.uint8]:
        width = self._place_bits(entries)
        if not width:
            bitmap = np.zeros((len(places), entries), np.uint8)
            np.put_along_axis(bitmap, places, 1, axis=1)
            return np.packbits(bitmap, bitorder="little")
        bits = (places.reshape(-1, 1) >> np.arange(width)) & 1
        return np.packbits(bits.astype(np.uint8), bitorder="little")

    def _unpack(self, payload: Payload, shape: tuple[int, ...]) -> NDArray[np.intp]:
        samples, entries = rows(shape)
        kept, width = self._kept(entries), self._place_bits(entries)
        data = np.frombuffer(payload, np.uint8, self._places_bytes(shape))
        if not width:
            bitmap = np.unpackbits(data, count=samples * entries, bitorder="little").reshape(samples, entries)
            if not (bitmap.sum(axis=1, dtype=np.intp) == kept).all():
                raise CodecError(f"top-k: not every sample has {kept} entries")
            return np.nonzero(bitmap)[1].reshape(samples, kept)
        bits = np.unpackbits(data, count=samples * kept * width, bitorder="little").reshape(samples, kept, width)
        places = bits @ (1 << np.arange(width))
        if not (places < entries).all():
            raise CodecError(f"top-k: a place {places.max()} of {entries} does not exist")
        return places


def _greatest(flat: NDArray[np.float32], kept: int) -> NDArray[np.intp]:
    """Places of the greatest magnitudes of each row, ascending; ties go to the first.

    Without the sign bit, float32 bit patterns compare as their magnitudes do, and NaN is above infinity.
    """
    magnitudes = flat.view(np.int32) & 0x7FFFFFFF
    least = np.sort(magnitudes, axis=1)[:, -kept, None]  # much faster than a partition of so many zeros
    chosen = magnitudes > least
    short = kept - chosen.sum(axis=1)
    for row in np.flatnonzero(short):
        chosen[row, np.flatnonzero(magnitudes[row] == least[row])[: short[row]]] = True
    places: NDArray[np.intp] = np.flatnonzero(chosen).reshape(-1, kept) % flat.shape[1]
    return places


def _scatter(values: NDArray[np.floating], places: NDArray[np.intp], shape: tuple[int, ...]) -> NDArray[np.float32]:
    flat = np.zeros(rows(shape), np.float32)
    np.put_along_axis(flat, places, values.astype(np.float32), axis=1)
    return flat.reshape(shape)
