"""How the devices take part in one epoch, and how their client weights become one set: a function an aggregation."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cutlayer.aggregation import Aggregation, Epsl, Parallel, Sequential, SplitFed

__all__ = ["Arrays", "ClientWeights", "Round", "Turns", "average", "run_round"]

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ClientWeights:
    """The weights of the client-side models between two epochs.

    Weights are told apart by identity: who holds the very ones that it is to begin with needs not be sent them.
    """

    common: Arrays
    own: Mapping[str, Arrays] = field(default_factory=dict)
    """Of devices whose weights nobody averages with others'."""

    def of(self, device: str) -> Arrays:
        """What a device begins with."""
        return self.own.get(device, self.common)

    def models(self) -> dict[str, Arrays]:
        """The different ones, by device; one without a name if they are common to all."""
        if any(each is not self.common for each in self.own.values()):
            return dict(self.own)
        return {"": self.common}


@dataclass
class Round:
    """How far an epoch got.

    Invariant: between two turns it is all that is needed to take the epoch up again, beside the server-side model and
    the devices' own states.
    """

    epoch: int
    weights: ClientWeights
    """With which the epoch began."""
    steps: Counter[str] = field(default_factory=Counter)
    """Steps of each device in this epoch."""
    samples: Counter[str] = field(default_factory=Counter)
    """Samples of each device that were trained on in this epoch."""
    returned: dict[str, Arrays] = field(default_factory=dict)
    """Client weights of the devices whose pass is over."""

    def forget(self, device: str) -> None:
        """The device is no longer one of the trial's, nor is what it did."""
        for each in (self.returned, self.steps, self.samples):
            each.pop(device, None)
        self.weights = ClientWeights(self.weights.common, {k: v for k, v in self.weights.own.items() if k != device})

    def restart(self, device: str) -> None:
        """The device begins its pass anew, if it is not over."""
        if device not in self.returned:
            del self.steps[device], self.samples[device]


class Turns(Protocol):
    """The server's dealings with devices, as a round needs them."""

    @property
    def devices(self) -> tuple[str, ...]:
        """Those that take part, in the trial's order; one that is lost in a turn is no longer among them."""

    def begin(self, device: str, weights: Arrays) -> None:
        """Have a device pass over its samples from these client weights, or go on with its pass."""

    def turn(self, devices: list[str]) -> None:
        """Take one batch, or the weights at the end of its pass, of each device in this order."""


def run_round(aggregation: Aggregation, turns: Turns, state: Round) -> ClientWeights:
    """The rest of an epoch over all devices; returns the client weights that it ends with."""
    return _ROUNDS[type(aggregation)](turns, state)


def _sequential(turns: Turns, state: Round) -> ClientWeights:
    """Each device passes over its samples and hands its client weights to the next."""
    weights = state.weights.common
    for device in turns.devices:
        if device in _passing(turns, state):
            turns.begin(device, weights)
        while device in _passing(turns, state):
            turns.turn([device])
        weights = state.returned.get(device, weights)
    return ClientWeights(weights)


def _splitfed(turns: Turns, state: Round) -> ClientWeights:
    _side_by_side(turns, state)
    if not state.returned:  # all were lost
        return state.weights
    return ClientWeights(average({device: state.returned[device] for device in sorted(state.returned)}, state.samples))


def _parallel(turns: Turns, state: Round) -> ClientWeights:
    _side_by_side(turns, state)
    return ClientWeights(state.weights.common, {**state.weights.own, **state.returned})


def _side_by_side(turns: Turns, state: Round) -> None:
    """The devices pass over their samples at the same time; the server takes a batch of each in turn.

    The turns make the order of the server's updates, hence the result, independent of who is faster.
    """
    for device in _passing(turns, state):
        turns.begin(device, state.weights.of(device))
    while devices := _passing(turns, state):
        turns.turn(devices)


def _passing(turns: Turns, state: Round) -> list[str]:
    """Devices that take part and have not returned their weights; a turn may find that one no longer does."""
    return [device for device in turns.devices if device not in state.returned]


def average(weights: Mapping[str, Arrays], samples: Mapping[str, int]) -> Arrays:
    """Mean of client weights, weighted by samples (McMahan et al., arXiv 1602.05629).

    Whole numbers, such as BatchNorm's count of batches, take the greatest value, since a mean would not be whole. The
    mean of the very same weights is these.
    """
    first, *others = weights.values()
    if all(each is first for each in others):
        return first
    total = sum(samples[device] for device in weights)
    return {
        name: _mean([(array[name], samples[device] / total) for device, array in weights.items()]) for name in first
    }


def _mean(shares: list[tuple[NDArray[Any], float]]) -> NDArray[Any]:
    first = shares[0][0]
    if not np.issubdtype(first.dtype, np.floating):
        greatest: NDArray[Any] = np.stack([array for array, _ in shares]).max(axis=0)
        return greatest
    mean = np.zeros(first.shape, np.float64)
    for array, share in shares:
        mean += array.astype(np.float64) * share  # a float32 times a Python float would be a float32
    return mean.astype(first.dtype)


_ROUNDS: dict[type, Callable[[Turns, Round], ClientWeights]] = {
    Sequential: _sequential,
    SplitFed: _splitfed,
    Parallel: _parallel,
    Epsl: _parallel,
}
