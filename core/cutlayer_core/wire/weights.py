"""Client weights as the payload of a message."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from cutlayer_core.codecs import Payload
from cutlayer_core.errors import MessageError

__all__ = ["decode_weights", "encode_weights"]

_Arrays = dict[str, NDArray[Any]]


def encode_weights(arrays: _Arrays) -> bytes:
    """Named arrays as a safetensors payload."""
    return save_safetensors({name: np.asarray(array, order="C") for name, array in arrays.items()})


def decode_weights(payload: Payload, like: _Arrays) -> _Arrays:
    """Client weights from a payload, accepted only with the names, shapes and dtypes of ``like``.

    Raises:
        MessageError: not safetensors, or not the weights of this client.
    """
    try:
        arrays: _Arrays = load_safetensors(bytes(payload))
    except (SafetensorError, KeyError, ValueError) as error:
        raise MessageError(f"client weights are not valid safetensors: {error}") from error
    if arrays.keys() != like.keys():
        raise MessageError(f"client weights name other parameters: {sorted(arrays.keys() ^ like.keys())[:4]}")
    for name, array in arrays.items():
        if array.shape != like[name].shape or array.dtype != like[name].dtype:
            found, wanted = f"{array.dtype}{array.shape}", f"{like[name].dtype}{like[name].shape}"
            raise MessageError(f"client weight {name!r} is {found}, expected {wanted}")
    return arrays
