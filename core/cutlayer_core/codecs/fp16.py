"""IEEE 754 half precision."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.codecs.base import NOTHING, Arrays, BaseCodec, Encoded, Payload, check_length

__all__ = ["Fp16"]

_LARGEST = np.float32(65504.0)


class Fp16(BaseCodec, frozen=True, tag="fp16"):
    """16-bit floats, little-endian; values beyond the range become the largest finite one."""

    def encode(self, tensor: NDArray[np.float32], seed: int = 0, memory: Arrays = NOTHING) -> Encoded:
        """Encode float32 of any shape in 2 bytes per entry, rounding to nearest even."""
        return Encoded(np.clip(tensor, -_LARGEST, _LARGEST).astype("<f2").tobytes(), {})

    def decode(self, payload: Payload, params: Mapping[str, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Float32 of ``shape``. Raises `CodecError` on a wrong length."""
        check_length(payload, shape, self.bits)
        return np.frombuffer(payload, "<f2").astype(np.float32).reshape(shape)

    def bits(self, shape: tuple[int, ...]) -> int:
        """16 bits per entry."""
        return 16 * math.prod(shape)
