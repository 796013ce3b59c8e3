"""How the devices take part in one epoch, and how their client weights become one set: a function an aggregation."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cutlayer_core.trial.aggregation import Aggregation, Epsl, Parallel, Sequential, SplitFed
from cutlayer_server.model.averaging import Arrays, average

__all__ = ["ClientWeights", "Round", "Turns", "run_round"]


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


_ROUNDS: dict[type, Callable[[Turns, Round], ClientWeights]] = {
    Sequential: _sequential,
    SplitFed: _splitfed,
    Parallel: _parallel,
    Epsl: _parallel,
}
