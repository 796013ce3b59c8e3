"""Float32 as it is: the reference that every other codec is compared with."""

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutlayer.codecs.base import Encoded, Payload, check_length

__all__ = ["Raw"]


class Raw(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="raw"):
    """32-bit floats, little-endian, lossless."""

    @property
    def id(self) -> str:
        """The name on the wire."""
        return "raw"

    def encode(self, tensor: NDArray[np.float32]) -> Encoded:
        """Float32 of any shape to 4 bytes an entry."""
        return Encoded(np.ascontiguousarray(tensor, "<f4").reshape(-1).view(np.uint8).data, {})

    def decode(self, payload: Payload, params: Mapping[str, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Float32 of ``shape``; a read-only view of the payload. Raises `CodecError` on a wrong length."""
        check_length(payload, shape, 4)
        return np.frombuffer(payload, "<f4").reshape(shape)

    def bits(self, shape: tuple[int, ...]) -> int:
        """Payload size in bits."""
        return 32 * int(np.prod(shape))
