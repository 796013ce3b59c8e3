"""The lines of a run record: what happened, one typed event each."""

from typing import TypeAlias

import msgspec

from cutlayer_core.record.usage import Usage

__all__ = [
    "ClientPass",
    "Ended",
    "EpochDone",
    "Event",
    "Joined",
    "Missed",
    "Quarantined",
    "Resumed",
    "Settled",
    "Started",
    "Step",
]


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", kw_only=True):
    time_s: float
    """Since the record was opened."""


class Started(_Line, frozen=True, tag="started"):
    """The devices joined, all or as many as the trial needs."""

    devices: dict[str, int]
    """Samples by device."""
    processor: str = "cpu"
    """What the server-side model ran on when the run began."""


class Step(_Line, frozen=True, tag="step"):
    """The server updated on one batch."""

    epoch: int
    step: int
    device: str
    samples: int
    loss: float
    correct: int
    up_payload_bytes: int
    down_payload_bytes: int
    raw_payload_bytes: int
    """What each direction would have taken as float32."""
    up_coded_bytes: int = 0
    """The payload before the lossless stage."""
    down_coded_bytes: int = 0


class ClientPass(_Line, frozen=True, tag="client_pass"):
    """A device finished its pass over its samples."""

    epoch: int
    device: str
    steps: int
    phases_s: dict[str, float]
    usage: Usage | None = None
    """Since the device's last pass, as the device reports it."""


class Settled(_Line, frozen=True, tag="settled"):
    """What a device used outside its passes: before the first one, if it was to rest then, and after the last one."""

    device: str
    usage: Usage | None = None
    """Since the device's last report."""
    idle: Usage | None = None
    """During the rest that followed, in which the device did nothing."""


class EpochDone(_Line, frozen=True, tag="epoch"):
    """Every device finished the epoch, and the model was evaluated on the test set."""

    epoch: int
    mode: str
    """Of all devices, or "mixed"."""
    loss: float
    accuracy: float
    test_loss: float
    test_accuracy: float
    steps: int
    duration_s: float
    """Training only, without the evaluation."""
    up_bytes: int
    down_bytes: int
    phases_s: dict[str, float]
    """The server's time by phase."""
    modes: dict[str, str] = {}
    """Of each device, where they differ."""
    missing: tuple[str, ...] = ()
    """Devices of the trial whose pass is not part of it."""


class Resumed(_Line, frozen=True, tag="resumed"):
    """One side restarted, so both went back to a state both can continue from; what came after it happens again."""

    kept: int
    """How many of the events before this one, counted from the first, still count."""
    epoch: int
    step: int
    """Where training continues: steps of this epoch already done, over all devices."""
    reason: str


class Quarantined(_Line, frozen=True, tag="quarantined"):
    """A device sent impossible data, so the others go on without it, from a state before it did."""

    device: str
    reason: str


class Missed(_Line, frozen=True, tag="missed"):
    """A device did not join, or was lost; the others go on without it."""

    epoch: int
    device: str
    reason: str


class Joined(_Line, frozen=True, tag="joined"):
    """A device takes part from this epoch on."""

    epoch: int
    device: str
    samples: int


class Ended(_Line, frozen=True, tag="ended"):
    """The run is over."""

    ok: bool
    reason: str


Event: TypeAlias = Started | Step | ClientPass | Settled | EpochDone | Resumed | Quarantined | Missed | Joined | Ended
