"""The codecs of both directions together: what one side sends, and what the other side makes of it."""

import math
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutlayer_core.codecs.base import NOTHING, Arrays, BaseCodec, Payload
from cutlayer_core.codecs.fp8 import Fp8
from cutlayer_core.codecs.fp16 import Fp16
from cutlayer_core.codecs.fwq import Fwq
from cutlayer_core.codecs.intq import IntQ
from cutlayer_core.codecs.lossless import expand, shrink
from cutlayer_core.codecs.pq import ProductQuantizer
from cutlayer_core.codecs.raw import Raw
from cutlayer_core.codecs.splitfc import SplitFC
from cutlayer_core.codecs.topk import TopK
from cutlayer_core.errors import CodecError

__all__ = ["Codec", "Codecs", "Received", "Sent", "Tensor"]

Codec = Raw | Fp16 | Fp8 | IntQ | TopK | ProductQuantizer | SplitFC | Fwq
"""The table of codecs: the types that ``[codec.up]`` and ``[codec.down]`` in a trial file may name by ``id``."""
_Floats = NDArray[np.float32]


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a payload becomes a float32 tensor: the codec's id, its parameters for this tensor, and the shape."""

    codec: str
    params: dict[str, int]
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1)], ...], msgspec.Meta(min_length=1, max_length=8)]
    shrunk: bool = False
    """Whether the lossless stage made the payload shorter."""


class Sent(NamedTuple):
    """What one side sends, and what it keeps: ``context`` for the answer, ``memory`` for the next tensor."""

    tensor: Tensor
    payload: Payload
    coded: Payload
    """The payload before the lossless stage."""
    context: Arrays = NOTHING
    memory: Arrays = NOTHING


class Received(NamedTuple):
    """What the other side makes of it: the values, and the payload after the lossless stage."""

    values: _Floats
    coded: Payload


class Codecs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[codec.up]`` for smashed data, ``[codec.down]`` for cut gradients.

    The codec of smashed data also decides which part of the gradient is needed, and what the client makes of it; the
    other codec encodes that part. So any two can be combined.
    """

    up: Codec = Raw()
    down: Codec = Raw()
    lossless: Literal["none", "zstd"] = "none"
    """The stage after either codec; a payload that it does not make shorter travels as it is."""

    def problem(self, shape: tuple[int, ...], shared: int = 0) -> str:
        """Why smashed data of this shape (with the batch) cannot travel, as ``<key>: found ..., allowed: ...``; or empty.

        ``shared`` is how many samples of a gradient all clients share.
        """
        if problem := self.up.problem(shape):
            return f"codec.up.{problem}"
        if isinstance(self.down, SplitFC):
            return "codec.down.id: found 'splitfc', allowed: 'fwq', which is what SplitFC does to gradients"
        if isinstance(self.down, ProductQuantizer) and self.down.correction:
            return f"codec.down.correction: found {self.down.correction}, allowed: 0; only smashed data are corrected"
        part = self.up.part_shape(shape)
        problem = self.down.problem(part)
        if not problem and shared:
            problem = self.down.problem((shared, *shape[1:]))
        return f"codec.down.{problem}" if problem else ""

    def largest_bytes(self, shape: tuple[int, ...], shared: int = 0) -> dict[str, int]:
        """Largest payload in bytes, up and down, for smashed data of this shape; ``shared`` as in `problem`."""
        part = self.up.part_shape(shape)
        up = max(self.up.bits(shape), self.up.steady.bits(shape))
        down = [self._down(part, shape).bits(part)]
        if shared:
            down.append(self.down.bits((shared, *shape[1:])))
        return {"up": up // 8, "down": max(down) // 8}

    def encode(self, smashed: _Floats, seed: int = 0, memory: Arrays = NOTHING, *, steady: bool = False) -> Sent:
        """Smashed data as they leave the board.

        Args:
            smashed: (B, *smashed).
            seed: determines all random draws, if the codec `draws`.
            memory: that of the last `Sent`.
            steady: whether no gradient will answer them; the server may keep them and train on them again.
        """
        codec = self.up.steady if steady else self.up
        return self._sent(codec, smashed, seed, memory)

    def decode(self, tensor: Tensor, payload: Payload, *, steady: bool = False) -> Received:
        """Smashed data as the server sees them. Raises `CodecError` if they were not encoded by these codecs."""
        codec = self.up.steady if steady else self.up
        return self._received(codec, tensor, payload)

    def encode_gradient(self, gradient: _Floats, answered: Received, seed: int = 0, first: int = 0) -> Sent:
        """The cut gradient for ``answered`` as it leaves the server: as much of it as the client needs.

        ``gradient`` may begin at sample ``first``; the samples before it are shared with other clients.
        """
        part = self.up.select(gradient, answered.coded, answered.values.shape, first)
        return self._sent(self._down(part.shape, gradient.shape), part, seed, NOTHING)

    def encode_shared(self, gradient: _Floats, seed: int = 0) -> Sent:
        """The samples of the cut gradient that clients share, in full, since each client may need a different part."""
        return self._sent(self.down, gradient, seed, NOTHING)

    def decode_shared(self, tensor: Tensor, payload: Payload, answers: Tensor) -> _Floats:
        """The shared samples of the gradient for ``answers``. Raises `CodecError` if they do not fit it."""
        if tensor.shape[1:] != answers.shape[1:] or tensor.shape[0] > answers.shape[0]:
            raise CodecError(f"a shared gradient of shape {tensor.shape} answers smashed data of {answers.shape}")
        return self._received(self.down, tensor, payload).values

    def decode_gradient(
        self, tensor: Tensor | None, payload: Payload, answers: Sent, shared: _Floats | None = None
    ) -> _Floats:
        """The cut gradient that the client uses, in the shape of the smashed data that it sent.

        Args:
            tensor: describes the samples that are this client's alone; None if there are none.
            payload: those samples, encoded.
            answers: the smashed data that were sent.
            shared: the samples before them, from `decode_shared`.

        Raises:
            CodecError: it does not fit those smashed data.
        """
        shape, first = answers.tensor.shape, 0 if shared is None else len(shared)
        parts = [] if shared is None else [self.up.select(shared, answers.coded, shape)]
        own = (shape[0] - first, *shape[1:])
        wanted = self.up.part_shape(own) if own[0] else None
        if (tensor.shape if tensor else None) != wanted:
            raise CodecError(f"a gradient of shape {tensor and tensor.shape} answers smashed data that want {wanted}")
        if tensor:
            parts.append(self._received(self._down(tensor.shape, own), tensor, payload).values)
        part = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return self.up.correct(part, shape, answers.context)

    def _down(self, part: tuple[int, ...], shape: tuple[int, ...]) -> BaseCodec:
        return self.down.for_share(math.prod(part) / math.prod(shape))

    def _sent(self, codec: BaseCodec, tensor: _Floats, seed: int, memory: Arrays) -> Sent:
        encoded = codec.encode(tensor, seed, memory)
        shrunk = shrink(encoded.payload) if self.lossless == "zstd" else None
        header = Tensor(codec.id, encoded.params, tensor.shape, shrunk is not None)
        payload = encoded.payload if shrunk is None else shrunk
        return Sent(header, payload, encoded.payload, encoded.context, encoded.memory)

    def _received(self, codec: BaseCodec, tensor: Tensor, payload: Payload) -> Received:
        if tensor.codec != codec.id:
            raise CodecError(f"a tensor is encoded as {tensor.codec!r}, the trial uses {codec.id!r}")
        if tensor.shrunk:
            if self.lossless == "none":
                raise CodecError("a payload is compressed, the trial does without")
            payload = expand(payload, codec.bits(tensor.shape) // 8)
        return Received(codec.decode(payload, tensor.params, tensor.shape), payload)
