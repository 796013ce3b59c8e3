"""What every meter has, and what a search for one reports."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, Protocol, final

from cutlayer_core.record.energy import Kind, Scope
from cutlayer_profiles.meters.root import Root

__all__ = ["Accuracy", "Finding", "Meter", "Source", "Status"]


class Accuracy(NamedTuple):
    """The accuracy of a meter's readings, at two standard deviations.

    Attributes:
        gain: relative error that all readings share.
        step: the smallest difference between two readings, in W or J.
        window_s: a reading is the mean over this time before it was read.
    """

    gain: float
    step: float = 0.0
    window_s: float = 0.0


class Source(Protocol):
    """What must be known of readings to turn them into joules."""

    @property
    def kind(self) -> Kind:
        """How the readings were obtained."""

    @property
    def scope(self) -> Scope:
        """What they measure."""

    @property
    def accuracy(self) -> Accuracy:
        """How accurate they are."""

    @property
    def counts(self) -> bool:
        """Whether they are joules counted so far; otherwise they are watts."""


class Meter(ABC):
    """Something that measures power or counts energy.

    Args:
        root: where it is read; a copy makes it `simulated`.
        name: a name for people, with the place of the sensor.
        kind: the kind of its readings on a board.
        scope: what it measures.
        accuracy: accuracy of its readings.
        period_s: how often it is worth reading.
        counts: whether it counts joules; otherwise it measures watts.
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
        """The kind of its readings, which neither a subclass nor a caller may decide."""
        return "simulated" if self._root.replaced else self._real_kind

    @property
    def place(self) -> str:
        """Where it is: two processes that read this place read the same meter."""
        try:
            return f"{self._root.read('proc/sys/kernel/random/boot_id')} {self.name}"
        except OSError:
            return f"{self._root.path} {self.name}"

    @property
    def told_at_s(self) -> float | None:
        """When a meter that reports by itself last did, on the monotonic clock; None if it is read on demand."""
        return None

    @abstractmethod
    def read(self) -> float:
        """Watts now, or joules since some moment, which never decrease.

        Raises:
            OSError: it cannot be read.
            ValueError: it reports something impossible.
        """


Status = Literal["found", "absent", "denied", "unfit"]


class Finding(NamedTuple):
    """What a probe says of one meter that a board may have.

    Attributes:
        probe: which meter was looked for.
        status: absent: not there; denied: there, but may not be read; unfit: its readings cannot be trusted.
        detail: what was seen.
        mend: what the user can do about it.
        meter: the meter, if it was found.
    """

    probe: str
    status: Status
    detail: str
    mend: str = ""
    meter: Meter | None = None
