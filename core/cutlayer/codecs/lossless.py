"""An entropy coder behind any codec: Zstandard, for what the codec left to be had."""

import zstandard

from cutlayer.codecs.base import Payload
from cutlayer.errors import CodecError

__all__ = ["expand", "shrink"]

_LEVEL = 3
_LARGEST_WINDOW = 1 << 23
"""Bytes of memory beside the payload itself; what level 3 needs, four times over."""


def shrink(payload: Payload) -> bytes | None:
    """The payload in fewer bytes; None if there is no way."""
    shrunk: bytes = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False).compress(payload)
    return shrunk if len(shrunk) < len(payload) else None


def expand(shrunk: Payload, size: int) -> bytes:
    """The payload of ``size`` bytes. Raises `CodecError`, before anything is made room for, if it is not of that size."""
    try:
        announced = zstandard.frame_content_size(shrunk)
        if announced != size:
            raise CodecError(f"a compressed payload announces {announced} bytes, {size} are needed")
        payload: bytes = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompress(shrunk)
    except zstandard.ZstdError as error:
        raise CodecError(f"a compressed payload cannot be read: {error}") from error
    return payload
