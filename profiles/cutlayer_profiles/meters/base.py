"""What every meter is, and what a search for one says."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, Protocol, final

from cutlayer_core.record.energy import Kind, Scope
from cutlayer_profiles.meters.root import Root

__all__ = ["Accuracy", "Finding", "Meter", "Source", "Status"]


class Accuracy(NamedTuple):
    """Of a meter's readings, at two standard deviations.

    Attributes:
        gain: relative error of all readings alike.
        step: the smallest difference between two readings, in W or J.
        window_s: a reading is the mean over so long before it was read.
    """

    gain: float
    step: float = 0.0
    window_s: float = 0.0


class Source(Protocol):
    """What has to be known of readings to make joules of them."""

    @property
    def kind(self) -> Kind:
        """What the readings are."""

    @property
    def scope(self) -> Scope:
        """What they are of."""

    @property
    def accuracy(self) -> Accuracy:
        """How right they are."""

    @property
    def counts(self) -> bool:
        """Whether they are joules so far; otherwise watts."""


class Meter(ABC):
    """Something that tells a power, or counts energy.

    Args:
        root: where it is read; a copy makes it `simulated`.
        name: for people, with the place of the sensor.
        kind: what its readings are on a board.
        scope: what it measures.
        accuracy: of its readings.
        period_s: how often it is worth to be read.
        counts: whether it counts joules; otherwise it tells watts.
    """

    def __init__(
        self,
        root: Root,
        name: str,
        kind: Kind,
        scope: Scope,
        accuracy: Accuracy,
        period_s: float = 0.1,
        *,
        counts: bool = False,
    ) -> None:
        self._root, self._real_kind = root, kind
        self.name, self.scope, self.accuracy, self.period_s, self.counts = name, scope, accuracy, period_s, counts

    @final
    @property
    def kind(self) -> Kind:
        """What its readings are; not for a subclass, nor for a caller, to decide."""
        return "simulated" if self._root.replaced else self._real_kind

    @property
    def place(self) -> str:
        """Where it is: two processes that read it there read the same."""
        try:
            return f"{self._root.read('proc/sys/kernel/random/boot_id')} {self.name}"
        except OSError:
            return f"{self._root.path} {self.name}"

    @property
    def told_at_s(self) -> float | None:
        """When the last reading was told, on the monotonic clock, by a meter that speaks by itself; None: when it was read."""
        return None

    @abstractmethod
    def read(self) -> float:
        """Watts now; or joules since some moment, never less than before.

        Raises:
            OSError: it cannot be read.
            ValueError: it says what cannot be.
        """


Status = Literal["found", "absent", "denied", "unfit"]


class Finding(NamedTuple):
    """What a probe says of one meter that a board may have.

    Attributes:
        probe: which meter was looked for.
        status: absent: it is not there; denied: it is, and may not be read; unfit: its readings cannot be trusted.
        detail: what was seen.
        mend: what the user can do about it.
        meter: if it was found.
    """

    probe: str
    status: Status
    detail: str
    mend: str = ""
    meter: Meter | None = None
