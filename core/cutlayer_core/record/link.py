"""What a link between a device and its broker is like, as a lab makes it and a run record keeps it."""

from typing import Annotated

import msgspec

__all__ = ["Link"]

_Rate = Annotated[float, msgspec.Meta(gt=0)]
_Ms = Annotated[float, msgspec.Meta(ge=0)]


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One device's way to the broker. A profile of one's own is a TOML file with these keys."""

    up_mbit_s: _Rate
    down_mbit_s: _Rate
    half_duplex: bool = True
    """Whether both directions share the air, as in Wi-Fi."""
    delay_ms: _Ms = 0.0
    """One way."""
    jitter_ms: _Ms = 0.0
    """Up to so much is added to the delay; order is kept, as TCP keeps it."""
    stall_share: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """Share of the time in which nothing passes: what loss and rivals do to a TCP connection."""
    stall_ms: _Ms = 300.0
    """Mean length of a stall; their lengths are exponentially distributed."""
    beacon_ms: _Ms = 0.0
    """Power saving: what comes down while the radio dozes waits for the next of these; 0: the radio never dozes."""
    awake_ms: _Ms = 100.0
    """How long the radio stays awake after its last packet."""
    outages_s: tuple[tuple[float, float], ...] = ()
    """Begin and length of every time without any link, counted from the start of the shaper."""
