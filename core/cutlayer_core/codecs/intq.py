"""Uniform quantization to 1 to 8 bits."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutlayer_core.codecs.base import NOTHING, Arrays, BaseCodec, Encoded, Payload, check_length
from cutlayer_core.codecs.bitpack import pack, packed_bytes, unpack

__all__ = ["IntQ"]


class IntQ(BaseCodec, frozen=True, tag="intq"):
    """Integers of ``bits`` bits, with an offset and a step size for the tensor or for each channel (axis 1).

    Affine steps run from the least entry to the greatest, which wastes nothing after a ReLU. Symmetric steps run from
    -max to max and include zero, so they need at least 2 bits. With stochastic rounding, the expected value of a
    decoded entry is the entry itself (Gupta et al., arXiv 1502.02551). EcoFed's codec is this with 8 bits, where its
    symmetric steps use 7 of them.

    Payload: float32 step sizes, for affine steps also float32 offsets, then the codes.
    """

    width: Annotated[int, msgspec.Meta(ge=1, le=8)] = msgspec.field(name="bits", default=8)
    range: Literal["affine", "symmetric"] = "affine"
    per: Literal["tensor", "channel"] = "tensor"
    rounding: Literal["nearest", "stochastic"] = "nearest"

    def __post_init__(self) -> None:
        """Raises `ValueError` for settings that do not go together."""
        if self.range == "symmetric" and self.width == 1:
            raise ValueError("bits 1 goes with range 'affine' only: symmetric steps need one at zero")

    @property
    def steady(self) -> "IntQ":
        """Rounding to nearest: noise does not average out in data that are kept and trained on again."""
        return msgspec.structs.replace(self, rounding="nearest")

    @property
    def draws(self) -> bool:
        """Only for stochastic rounding."""
        return self.rounding == "stochastic"

    def problem(self, shape: tuple[int, ...]) -> str:
        """See `BaseCodec`."""
        if self.per == "channel" and len(shape) < 3:
            return f"per: found 'channel', allowed: 'tensor', for {shape[1:]} a sample, which has no channels"
        return ""

    def encode(self, tensor: NDArray[np.float32], seed: int = 0, memory: Arrays = NOTHING) -> Encoded:
        """Encode float32 of any shape; a non-finite entry turns its channel, or all, into NaN."""
        entries = np.ascontiguousarray(tensor).reshape(self._layout(tensor.shape))
        low, high = entries.min(axis=(0, 2), keepdims=True), entries.max(axis=(0, 2), keepdims=True)
        if self.range == "symmetric":
            high = np.maximum(high, -low)
            low = -high
        with np.errstate(invalid="ignore", over="ignore"):
            step = (high - low) / np.float32(self._top)
            step[step < np.finfo(np.float32).tiny] = 0.0  # whose inverse would be infinite
            codes = (entries - low) * np.divide(1, step, out=np.zeros_like(step), where=step != 0)
            if self.rounding == "stochastic":
                codes += np.random.default_rng(seed).random(codes.shape, np.float32)
            else:
                codes += np.float32(0.5)
            numbers = np.minimum(codes, np.float32(self._top)).astype(np.uint8)
        numbers_before = [step.reshape(-1)] if self.range == "symmetric" else [step.reshape(-1), low.reshape(-1)]
        head = np.concatenate(numbers_before).astype("<f4")
        return Encoded(head.tobytes() + pack(numbers.reshape(-1), self.width).tobytes(), {})

    def decode(self, payload: Payload, params: Mapping[str, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Float32 of ``shape``. Raises `CodecError` on a wrong length."""
        check_length(payload, shape, self.bits)
        layout, data = self._layout(shape), np.frombuffer(payload, np.uint8)
        head = self._head_bytes(shape)
        step, *low = data[:head].view("<f4").reshape(-1, 1, layout[1], 1)
        codes = unpack(data[head:], self.width, math.prod(shape)).reshape(layout)
        with np.errstate(invalid="ignore", over="ignore"):
            entries: NDArray[np.float32] = codes * step + low[0] if low else (codes - np.float32(self._top // 2)) * step
        return entries.reshape(shape)

    def bits(self, shape: tuple[int, ...]) -> int:
        """``bits`` per entry, plus 64 for the tensor or for each channel, or 32 if the range is symmetric."""
        return 8 * (self._head_bytes(shape) + packed_bytes(self.width, math.prod(shape)))

    def _head_bytes(self, shape: tuple[int, ...]) -> int:
        return 4 * (1 if self.range == "symmetric" else 2) * self._layout(shape)[1]

    @property
    def _top(self) -> int:
        """The greatest code."""
        return (1 << self.width) - (2 if self.range == "symmetric" else 1)

    def _layout(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """The shape as samples, channels and everything else."""
        if self.per == "tensor" or len(shape) < 2:
            return 1, 1, math.prod(shape)
        return shape[0], shape[1], math.prod(shape[2:])
