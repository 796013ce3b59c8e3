"""The contract that every codec keeps.

A codec is a frozen struct whose fields are its settings, so a trial file, a message and a constructor call say the
same thing. What varies from tensor to tensor (a scale, say) goes into ``params``, apart from the payload.

    encode(tensor) -> Encoded(payload, params)
    decode(payload, params, shape) -> tensor      total: any bytes give an array or a `CodecError`
    bits(shape) -> int                            8 * len(payload), known before encoding
"""

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from cutlayer.errors import CodecError

__all__ = ["Encoded", "Payload", "check_length", "integer_param"]


Payload: TypeAlias = bytes | memoryview
"""Bytes on their way; a view spares a codec the copy out of its array."""


class Encoded(NamedTuple):
    """An encoded tensor: the bytes that travel, and the parameters that decoding them needs."""

    payload: Payload
    params: dict[str, int]


def check_length(payload: Payload, shape: tuple[int, ...], bytes_per_entry: int) -> None:
    """Compare shape with payload before either is used.

    Raises:
        CodecError: a dimension below 1, or a payload of another length than the shape needs.
    """
    wanted = math.prod(shape) * bytes_per_entry
    if any(size < 1 for size in shape) or len(payload) != wanted:
        raise CodecError(f"a payload of {len(payload)} bytes does not fit shape {shape}, which needs {wanted}")


def integer_param(params: Mapping[str, int], name: str, low: int, high: int) -> int:
    """The parameter ``name``, bounds included.

    Raises:
        CodecError: missing, not an integer, or out of bounds.
    """
    value = params.get(name)
    if type(value) is not int or not low <= value <= high:
        raise CodecError(f"codec parameter {name!r} must be an integer from {low} to {high}, found {value!r}")
    return value
