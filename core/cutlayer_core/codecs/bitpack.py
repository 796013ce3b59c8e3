"""Integers of a fixed bit width, packed without gaps; the first one in the lowest bits."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack", "packed_bytes", "unpack"]

_GROUP = 8
"""This many numbers of ``width`` bits fill exactly ``width`` bytes."""


def packed_bytes(width: int, count: int) -> int:
    """Size in bytes of ``count`` packed numbers of ``width`` bits."""
    return -(-count * width // 8)


def pack(numbers: NDArray[np.unsignedinteger], width: int) -> NDArray[np.uint8]:
    """Pack numbers below ``2**width`` into bytes; ``width`` is at most 8.

    Eight of them make one 64-bit word, of which ``width`` bytes are used.
    """
    if width == 8:
        return numbers.astype(np.uint8)
    padded = np.zeros(-(-numbers.size // _GROUP) * _GROUP, np.uint8)
    padded[: numbers.size] = numbers
    words = np.zeros(padded.size // _GROUP, "<u8")
    for place in range(_GROUP):
        words |= padded[place::_GROUP].astype(np.uint64) << np.uint64(place * width)
    packed = words.view(np.uint8).reshape(-1, 8)[:, :width].reshape(-1)
    return packed[: packed_bytes(width, numbers.size)]


def unpack(data: NDArray[np.uint8], width: int, count: int) -> NDArray[np.uint8]:
    """Recover the ``count`` numbers given to `pack`; ``data`` is as long as `packed_bytes` says."""
    if width == 8:
        return data
    groups = -(-count // _GROUP)
    padded = np.zeros(groups * width, np.uint8)
    padded[: data.size] = data
    octets = np.zeros((groups, 8), np.uint8)
    octets[:, :width] = padded.reshape(groups, width)
    words, mask = octets.view("<u8").reshape(-1), np.uint64((1 << width) - 1)
    numbers = np.empty((groups, _GROUP), np.uint8)
    for place in range(_GROUP):
        numbers[:, place] = (words >> np.uint64(place * width)) & mask
    return numbers.reshape(-1)[:count]
