"""Float32 unchanged: the reference that every other codec is compared with."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.codecs.base import NOTHING, Arrays, BaseCodec, Encoded, Payload, check_length

__all__ = ["Raw"]


class Raw(BaseCodec, frozen=True, tag="raw"):
    """32-bit floats, little-endian, lossless."""

    def encode(self, tensor: NDArray[np.float32], seed: int = 0, memory: Arrays = NOTHING) -> Encoded:
        """Encode float32 of any shape in 4 bytes per entry."""
        return Encoded(np.ascontiguousarray(tensor, "<f4").reshape(-1).view(np.uint8).data, {})

    def decode(self, payload: Payload, params: Mapping[str, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Float32 of ``shape``; a read-only view of the payload. Raises `CodecError` on a wrong length."""
        check_length(payload, shape, self.bits)
        return np.frombuffer(payload, "<f4").reshape(shape)

    def bits(self, shape: tuple[int, ...]) -> int:
        """32 bits per entry."""
        return 32 * math.prod(shape)
