"""The contract that every codec keeps.

A codec is a frozen struct whose fields are its settings, so a trial file, a message and a constructor call say the
same thing. What varies from tensor to tensor (a scale, say) goes into the payload or into ``params``.

    encode(tensor, seed, memory) -> Encoded(payload, params, context, memory)
    decode(payload, params, shape) -> tensor      total: any bytes give an array or a `CodecError`
    bits(shape) -> int                            8 * len(payload), known before encoding

Some codecs of smashed data also decide about the cut gradient that answers them: entries that were not sent need no
gradient (SplitFC, top-k), and the client may correct the gradient that it receives (FedLite).

    select(gradient, payload, shape) -> part      on the server: what the client needs, encoded by the other codec
    part_shape(shape) -> shape                    of that part, known in advance
    correct(part, context) -> gradient            on the board: what the client-side model is trained with
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from cutlayer_core.errors import CodecError

__all__ = ["NOTHING", "Arrays", "BaseCodec", "Encoded", "Payload", "check_length", "integer_param", "rows"]


Payload: TypeAlias = bytes | memoryview
"""Bytes to be sent; a view saves a codec from copying them out of its array."""
Arrays: TypeAlias = Mapping[str, NDArray[Any]]
NOTHING: Arrays = MappingProxyType({})


class Encoded(NamedTuple):
    """An encoded tensor.

    Attributes:
        payload: the bytes that travel.
        params: what decoding needs besides them.
        context: what `BaseCodec.correct` needs when the gradient arrives.
        memory: what the next `BaseCodec.encode` of this sender may start from.
    """

    payload: Payload
    params: dict[str, int]
    context: Arrays = NOTHING
    memory: Arrays = NOTHING


class BaseCodec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id"):
    """What all codecs have in common; most leave gradients alone."""

    @property
    def id(self) -> str:
        """The name on the wire."""
        return str(self.__struct_config__.tag)

    @property
    def steady(self) -> "BaseCodec":
        """The codec for smashed data that no gradient answers: without noise, which kept data would not average out."""
        return self

    @property
    def draws(self) -> bool:
        """Whether `encode` draws random numbers, and therefore needs a seed."""
        return False

    def for_share(self, share: float) -> "BaseCodec":
        """The codec that encodes this share of a tensor within the budget of the whole."""
        return self

    def problem(self, shape: tuple[int, ...]) -> str:
        """Why this codec cannot take tensors of this shape, as ``<key>: found ..., allowed: ...``; empty if it does."""
        return ""

    def encode(self, tensor: NDArray[np.float32], seed: int = 0, memory: Arrays = NOTHING) -> Encoded:
        """Encode a float32 tensor of any shape, batch first.

        Args:
            tensor: what to send.
            seed: determines all random draws, if the codec `draws`.
            memory: from the sender's last tensor; an optional starting point for a search.
        """
        raise NotImplementedError

    def decode(self, payload: Payload, params: Mapping[str, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Decode to float32 of ``shape``. Raises `CodecError` for bytes that `encode` cannot have produced."""
        raise NotImplementedError

    def bits(self, shape: tuple[int, ...]) -> int:
        """Payload size in bits; a multiple of 8."""
        raise NotImplementedError

    def part_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what `select` returns for smashed data of ``shape``."""
        return shape

    def select(
        self, gradient: NDArray[np.float32], payload: Payload, shape: tuple[int, ...], first: int = 0
    ) -> NDArray[np.float32]:
        """The part of the cut gradient that the client needs.

        Args:
            gradient: the cut gradient of the samples from ``first`` on, or of some of these.
            payload: the payload that it answers.
            shape: of the smashed data in that payload.
            first: index of the first sample.
        """
        return gradient

    def correct(
        self, part: NDArray[np.float32], shape: tuple[int, ...], context: Arrays = NOTHING
    ) -> NDArray[np.float32]:
        """The cut gradient of ``shape`` that the client uses, from the part that it received and its own context."""
        return part


def check_length(payload: Payload, shape: tuple[int, ...], bits: Callable[[tuple[int, ...]], int]) -> None:
    """Check that payload and shape agree, before either is used; ``bits`` is the codec's method.

    Raises:
        CodecError: a dimension below 1, or a payload of another length than the shape needs.
    """
    wanted = bits(shape) if shape and all(size >= 1 for size in shape) else 0
    if 8 * len(payload) != wanted or not wanted:
        raise CodecError(f"a payload of {len(payload)} bytes does not fit shape {shape}, which needs {wanted // 8}")


def integer_param(params: Mapping[str, int], name: str, low: int, high: int) -> int:
    """The integer parameter ``name``, from ``low`` to ``high`` inclusive.

    Raises:
        CodecError: missing, not an integer, or out of bounds.
    """
    value = params.get(name)
    if type(value) is not int or not low <= value <= high:
        raise CodecError(f"codec parameter {name!r} must be an integer from {low} to {high}, found {value!r}")
    return value


def rows(shape: tuple[int, ...]) -> tuple[int, int]:
    """Number of samples, and of entries per sample."""
    return shape[0], math.prod(shape[1:])
