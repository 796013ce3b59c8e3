"""How the devices take part in one epoch, and how their client weights become one set: a function an aggregation."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer.aggregation import Aggregation, Sequential, SplitFed
from cutlayer.messages import Smashed
from cutlayer_server.trainer import Arrays, Trainer

__all__ = ["average", "run_round"]


def run_round(aggregation: Aggregation, trainer: Trainer, weights: Arrays) -> Arrays:
    """One epoch over all devices, from client weights to client weights."""
    return _ROUNDS[type(aggregation)](trainer, weights)


def _sequential(trainer: Trainer, weights: Arrays) -> Arrays:
    """Each device passes over its samples and hands its client weights to the next."""
    for device in trainer.devices:
        trainer.begin(device, weights)
        while isinstance((message := trainer.hear(device)).header, Smashed):
            trainer.train(device, message)
        weights = trainer.finish(device, message)
    return weights


def _splitfed(trainer: Trainer, weights: Arrays) -> Arrays:
    """The devices pass over their samples at the same time; the server takes a batch of each in turn.

    The turns make the order of the server's updates, hence the result, independent of who is faster.
    """
    for device in trainer.devices:
        trainer.begin(device, weights)
    returned: dict[str, Arrays] = {}
    while len(returned) < len(trainer.devices):
        for device in trainer.devices:
            if device in returned:
                continue
            message = trainer.hear(device)
            if isinstance(message.header, Smashed):
                trainer.train(device, message)
            else:
                returned[device] = trainer.finish(device, message)
    return average({device: returned[device] for device in trainer.devices}, trainer.samples)


def average(weights: Mapping[str, Arrays], samples: Mapping[str, int]) -> Arrays:
    """Mean of client weights, weighted by samples (McMahan et al., arXiv 1602.05629).

    Whole numbers, such as BatchNorm's count of batches, take the greatest value, since a mean would not be whole.
    """
    total, names = sum(samples[device] for device in weights), next(iter(weights.values())).keys()
    return {
        name: _mean([(array[name], samples[device] / total) for device, array in weights.items()]) for name in names
    }


def _mean(shares: list[tuple[NDArray[Any], float]]) -> NDArray[Any]:
    first = shares[0][0]
    if not np.issubdtype(first.dtype, np.floating):
        greatest: NDArray[Any] = np.stack([array for array, _ in shares]).max(axis=0)
        return greatest
    mean = np.zeros(first.shape, np.float64)
    for array, share in shares:
        mean += array * share
    return mean.astype(first.dtype)


_ROUNDS: dict[type, Callable[[Trainer, Arrays], Arrays]] = {Sequential: _sequential, SplitFed: _splitfed}
