"""8-bit floats, E4M3 and E5M2, with one power-of-two scale per tensor.

The formats are those of Micikevicius et al., "FP8 formats for deep learning" (arXiv 2209.05433): E4M3 has no
infinities and one NaN per sign, E5M2 follows IEEE 754. Rounding is to nearest even and subnormals are kept, so with
``exponent`` 0 the codes equal a cast to ``float8_e4m3fn`` or ``float8_e5m2``.

Casting is a table look-up. The upper 16 bits of a float32, with the lowest of them set if any lower bit was (rounding
to odd), still decide every rounding to four significant bits or fewer: Boldo & Melquiond, "When double rounding is
odd" (2005). The scale is folded into the tables, so it costs nothing.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.codecs.base import NOTHING, Arrays, BaseCodec, Encoded, Payload, check_length, integer_param

__all__ = ["Fp8"]

_BLOCK = 1 << 16
"""Entries handled at a time: few enough that the intermediate arrays stay in the second-level cache."""
_PEAK_BLOCK = 1 << 17
_INFINITY = 0x7F800000
_TRIED = 4
_SAMPLE = 1 << 16
"""Entries on which a scale is judged; of a larger tensor, at least half as many."""


class _Layout(NamedTuple):
    mantissa_bits: int
    bias: int
    largest: float
    overflow: int
    """Code of values beyond ``largest``: NaN in E4M3, infinity in E5M2."""
    nan: int


_LAYOUTS = {
    "e4m3": _Layout(mantissa_bits=3, bias=7, largest=448.0, overflow=0x7F, nan=0x7F),
    "e5m2": _Layout(mantissa_bits=2, bias=15, largest=57344.0, overflow=0x7C, nan=0x7E),
}


class Fp8(BaseCodec, frozen=True, tag="fp8"):
    """One byte per entry. Parameter ``exponent``: entries were divided by ``2**exponent``.

    With ``scale`` "max" it is the least exponent at which all entries fit. With "search" the three below it are tried
    too, and the one with the least squared error over a sample is chosen: the few entries at the top that saturate to
    the largest value may cost less than all the small ones gain.
    """

    format: Literal["e4m3", "e5m2"] = "e4m3"
    scale: Literal["max", "search"] = "max"

    def encode(self, tensor: NDArray[np.float32], seed: int = 0, memory: Arrays = NOTHING) -> Encoded:
        """Encode float32 of any shape in one byte per entry; NaN stays NaN."""
        words = np.ascontiguousarray(tensor).reshape(-1).view(np.uint32)
        exponent = _fitting_exponent(words, _LAYOUTS[self.format].largest)
        if self.scale == "search":
            exponent = self._search(words, exponent)
        return Encoded(self._cast(words, exponent).data, {"exponent": exponent})

    def decode(self, payload: Payload, params: Mapping[str, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Float32 of ``shape``. Raises `CodecError` on a wrong length or an exponent outside int8."""
        check_length(payload, shape, self.bits)
        table = _decoding_table(self.format, integer_param(params, "exponent", -128, 127))
        return _decode(np.frombuffer(payload, np.uint8), table).reshape(shape)

    def bits(self, shape: tuple[int, ...]) -> int:
        """8 bits per entry."""
        return 8 * math.prod(shape)

    def _cast(self, words: NDArray[np.uint32], exponent: int) -> NDArray[np.uint8]:
        return _cast(words, _encoding_table(self.format, exponent, saturates=True))

    def _search(self, words: NDArray[np.uint32], fitting: int) -> int:
        """The exponent at or below ``fitting`` with the least squared error; ``fitting`` if an entry is not finite."""
        sample = np.ascontiguousarray(words[:: max(1, words.size // _SAMPLE) | 1])
        values = sample.view(np.float32)
        if not np.isfinite(values).all():
            return fitting

        def error(exponent: int) -> float:
            difference = _decode(self._cast(sample, exponent), _decoding_table(self.format, exponent)) - values
            return float(np.dot(difference, difference))

        return min(range(fitting, max(fitting - _TRIED, -129), -1), key=error)


def _fitting_exponent(words: NDArray[np.uint32], largest: float) -> int:
    """The least e with ``max|tensor| <= largest * 2**e``, within int8; 0 for an all-zero tensor.

    Bit patterns of float32 compare like the magnitudes they stand for, and a step of 2**23 is a factor of two.
    """
    peak = 0
    for start in range(0, words.size, _PEAK_BLOCK):
        word = words[start : start + _PEAK_BLOCK]
        peak = max(peak, int(word.view(np.int32).max()), int(word.max()) & 0x7FFFFFFF)
    if peak >= _INFINITY:  # infinity or NaN: leave both out
        magnitudes = words & 0x7FFFFFFF
        peak = int(magnitudes[magnitudes < _INFINITY].max(initial=0))
    if peak == 0:
        return 0
    return min(max(-((int(np.float32(largest).view(np.uint32)) - peak) >> 23), -128), 127)


def _cast(words: NDArray[np.uint32], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The code of each float32, given as its bit pattern."""
    codes = np.empty(words.size, np.uint8)
    rounded_block, index_block = (
        np.empty(min(_BLOCK, words.size), np.uint32),
        np.empty(min(_BLOCK, words.size), np.intp),
    )
    for start in range(0, words.size, _BLOCK):
        word = words[start : start + _BLOCK]
        rounded, index = rounded_block[: word.size], index_block[: word.size]
        # Round to odd: adding 0xffff to the lower half carries into bit 16 exactly if that half is not zero.
        np.bitwise_and(word, 0xFFFF, out=rounded)
        np.add(rounded, 0xFFFF, out=rounded)
        np.bitwise_or(rounded, word, out=rounded)
        np.right_shift(rounded, 16, out=index)
        # The table has an entry for every index; "wrap" spares numpy the copy that an error would need.
        table.take(index, out=codes[start : start + _BLOCK], mode="wrap")
    return codes


def _decode(codes: NDArray[np.uint8], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """The value of each code."""
    values = np.empty(codes.size, np.float32)
    index_block = np.empty(min(_BLOCK, codes.size), np.intp)
    for start in range(0, codes.size, _BLOCK):
        code = codes[start : start + _BLOCK]
        index = index_block[: code.size]
        index[:] = code
        table.take(index, out=values[start : start + _BLOCK], mode="wrap")
    return values


def _values(layout: _Layout) -> NDArray[np.float64]:
    """The value of each code 0 to 127; NaN and infinity where the format has them."""
    codes = np.arange(128)
    exponents, mantissas = codes >> layout.mantissa_bits, codes & ((1 << layout.mantissa_bits) - 1)
    significands = mantissas / (1 << layout.mantissa_bits) + (exponents > 0)
    values: NDArray[np.float64] = np.ldexp(significands, np.maximum(exponents, 1) - layout.bias)
    values[values > layout.largest] = np.nan
    if layout.overflow != layout.nan:
        values[layout.overflow] = np.inf
    return values


@lru_cache(maxsize=64)
def _encoding_table(name: str, exponent: int, *, saturates: bool = False) -> NDArray[np.uint8]:
    """The code for each upper half of a float32 that was rounded to odd; 64 KiB.

    Finite values that are too large become the largest one if the cast ``saturates``, else what a plain cast gives.
    """
    layout = _LAYOUTS[name]
    halves = np.arange(1 << 16, dtype=np.uint32)
    with np.errstate(invalid="ignore"):
        magnitudes = np.abs((halves << 16).view(np.float32).astype(np.float64))
    finite = np.isfinite(magnitudes)
    scaled = np.ldexp(np.where(finite, magnitudes, 0.0), -exponent)
    # One unit in the last place: 2**(e - mantissa bits), and no finer than that of the subnormals.
    unit = np.maximum(np.frexp(scaled)[1] - 1, 1 - layout.bias) - layout.mantissa_bits
    rounded = np.ldexp(np.rint(np.ldexp(scaled, -unit)), unit)
    grid = _values(layout)
    finite_codes = np.flatnonzero(np.isfinite(grid))
    codes = np.searchsorted(grid[finite_codes], np.minimum(rounded, layout.largest))
    overflows = np.isinf(magnitudes) | ((rounded > layout.largest) & (not saturates))
    codes = np.where(overflows, layout.overflow, codes)
    codes = np.where(np.isnan(magnitudes), layout.nan, codes)
    table: NDArray[np.uint8] = (codes | ((halves >> 8) & 0x80)).astype(np.uint8)
    table.setflags(write=False)
    return table


@lru_cache(maxsize=64)
def _decoding_table(name: str, exponent: int) -> NDArray[np.float32]:
    """The value of each of the 256 codes, times ``2**exponent``, clamped to finite float32 where it is finite."""
    values = np.ldexp(_values(_LAYOUTS[name]), exponent)
    top = float(np.finfo(np.float32).max)
    half = np.where(np.isfinite(values), np.minimum(values, top), values).astype(np.float32)
    table = np.concatenate((half, -half))
    table.setflags(write=False)
    return table
