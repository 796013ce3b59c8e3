"""Checks of what devices send, before anything is done with it."""

import math

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.bundles.bundle import Client
from cutlayer_core.codecs import Payload, Received
from cutlayer_core.errors import CodecError, RemoteError
from cutlayer_core.trial.trial import Trial
from cutlayer_core.wire.messages import Message, Smashed, Weights
from cutlayer_core.wire.weights import decode_weights
from cutlayer_server.model.averaging import Arrays

__all__ = ["client_weights_of", "smashed_data_of"]

_MAX_PHASES = 32
_LARGEST = 1e6
"""No network computes with greater numbers; a single batch of them would ruin the model for everyone."""


def smashed_data_of(
    trial: Trial, client: Client, device: str, header: Smashed, payload: Payload, *, steady: bool
) -> tuple[Received, NDArray[np.uint16]]:
    """Smashed data (B, *smashed) and B labels. Shape and number of labels are checked before anything is decoded.

    ``steady`` says whether they are kept and trained on again.

    Raises:
        RemoteError: they do not fit this trial, are not finite, or are far beyond what a network computes with.
    """
    tensor = header.tensor
    samples, shape = tensor.shape[0], tensor.shape[1:]
    if shape != client.smashed.shape or samples > trial.data.batch_size:
        wanted = (f"up to {trial.data.batch_size}", *client.smashed.shape)
        raise RemoteError(f"{device} sent smashed data of shape {tensor.shape}, expected {wanted}")
    if len(header.labels) != 2 * samples:
        raise RemoteError(f"{device} sent {len(header.labels)} bytes of labels for {samples} samples")
    try:
        received = trial.codec.decode(tensor, payload, steady=steady)
    except CodecError as error:
        raise CodecError(f"{device} sent smashed data that cannot be read: {error}") from error
    _check_range(device, "smashed data", received.values)
    return received, np.frombuffer(header.labels, "<u2")


def client_weights_of(device: str, message: Message, like: Arrays, *, changed: bool) -> Arrays:
    """The client weights at the end of a pass, with the names, shapes and dtypes of ``like``; ``like`` if unchanged.

    Raises:
        RemoteError: they are not this client's, follow no batch, are not finite, or are far beyond what a network has.
    """
    header = message.header
    assert isinstance(header, Weights), "the session lets nothing else through"
    weights = decode_weights(message.payload, like) if changed else like
    if header.steps == 0:
        raise RemoteError(f"{device} ended its pass without sending a batch")
    for array in weights.values():
        if np.issubdtype(array.dtype, np.floating) and array.size:
            _check_range(device, "client weights", array)
    phases = header.phases_s
    if len(phases) > _MAX_PHASES or not all(math.isfinite(spent) and spent >= 0 for spent in phases.values()):
        raise RemoteError(f"{device} sent times of its phases that cannot be")
    return weights


def _check_range(device: str, what: str, array: NDArray[np.floating]) -> None:
    entries = array.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        if np.dot(entries, entries) < _LARGEST**2 / 2:  # then every entry is smaller, after a single pass
            return
    if not (array.min() >= -_LARGEST and array.max() <= _LARGEST):  # negated, since every comparison with NaN is false
        raise RemoteError(
            f"{device} sent {what} that are not finite, or above {_LARGEST:g}: lower the client's learning rate"
        )
