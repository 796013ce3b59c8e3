"""An entropy coder behind any codec: Zstandard, for the redundancy that the codec leaves.

The package has no wheels for 32-bit ARM, so it is imported only if a trial asks for it.
"""

from types import ModuleType

from cutlayer_core.codecs.base import Payload
from cutlayer_core.errors import CodecError, UserError

__all__ = ["expand", "shrink"]

_LEVEL = 3
_LARGEST_WINDOW = 1 << 23
"""Bytes of memory besides the payload itself: four times what level 3 needs."""


def shrink(payload: Payload) -> bytes | None:
    """The payload compressed; None if that makes it no shorter. Raises `UserError` without the package zstandard."""
    shrunk: bytes = _zstandard().ZstdCompressor(level=_LEVEL, write_checksum=False).compress(payload)
    return shrunk if len(shrunk) < len(payload) else None


def expand(shrunk: Payload, size: int) -> bytes:
    """Decompress to a payload of ``size`` bytes.

    Raises:
        CodecError: it announces another size, which is checked before memory is reserved, or cannot be read.
        UserError: the package zstandard is missing.
    """
    zstandard = _zstandard()
    try:
        announced = zstandard.frame_content_size(shrunk)
        if announced != size:
            raise CodecError(f"a compressed payload announces {announced} bytes, {size} are needed")
        payload: bytes = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompress(shrunk)
    except zstandard.ZstdError as error:
        raise CodecError(f"a compressed payload cannot be read: {error}") from error
    return payload


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError as error:
        raise UserError(
            "codec.lossless: found 'zstd', for which the package zstandard is missing here: "
            "pip install 'cutlayer[zstd]', or set 'none'"
        ) from error
    return zstandard
