"""How far an epoch got, and the client weights with which it began."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from cutlayer_server.model.averaging import Arrays

__all__ = ["ClientWeights", "EpochProgress"]


@dataclass(frozen=True)
class ClientWeights:
    """The weights of the client-side models between two epochs.

    Weights are compared by identity: a device that holds the very ones that it is to begin with need not be sent them.
    """

    common: Arrays
    own: Mapping[str, Arrays] = field(default_factory=dict)
    """By device, for those whose weights are not averaged with others'."""

    def of(self, device: str) -> Arrays:
        """The weights with which a device begins."""
        return self.own.get(device, self.common)

    def models(self) -> dict[str, Arrays]:
        """The different weights, by device; a single entry without a name if they are common to all."""
        if any(each is not self.common for each in self.own.values()):
            return dict(self.own)
        return {"": self.common}


@dataclass
class EpochProgress:
    """How far an epoch got.

    Invariant: between two turns it is all that is needed to resume the epoch, besides the server-side model and the
    devices' own states.
    """

    epoch: int
    weights: ClientWeights
    """The client weights with which the epoch began."""
    steps: Counter[str] = field(default_factory=Counter)
    """Steps of each device in this epoch."""
    samples: Counter[str] = field(default_factory=Counter)
    """Number of samples of each device that were trained on in this epoch."""
    returned: dict[str, Arrays] = field(default_factory=dict)
    """Client weights of the devices whose pass is over."""

    @property
    def is_untouched(self) -> bool:
        """Whether it is the first epoch, and no device has done anything in it."""
        return self.epoch == 0 and not self.steps and not self.returned

    def forget(self, device: str) -> None:
        """Remove a device that is no longer part of the trial, and what it did."""
        for each in (self.returned, self.steps, self.samples):
            each.pop(device, None)
        self.weights = ClientWeights(self.weights.common, {k: v for k, v in self.weights.own.items() if k != device})

    def restart(self, device: str) -> None:
        """Have the device start its pass over, unless that is over."""
        if device not in self.returned:
            del self.steps[device], self.samples[device]
