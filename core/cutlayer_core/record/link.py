"""The properties of a link between a device and its broker, as a lab shapes it and a run record keeps it."""

from typing import Annotated

import msgspec

__all__ = ["Link"]

_Rate = Annotated[float, msgspec.Meta(gt=0)]
_Ms = Annotated[float, msgspec.Meta(ge=0)]


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One device's link to the broker. A custom profile is a TOML file with these keys."""

    up_mbit_s: _Rate
    down_mbit_s: _Rate
    half_duplex: bool = True
    """Whether both directions share the air, as in Wi-Fi."""
    delay_ms: _Ms = 0.0
    """One way."""
    jitter_ms: _Ms = 0.0
    """Up to this much is added to the delay; packets stay in order, as with TCP."""
    stall_share: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """Share of the time in which nothing passes: the effect of loss and competing traffic on a TCP connection."""
    stall_ms: _Ms = 300.0
    """Mean length of a stall; their lengths are exponentially distributed."""
    beacon_ms: _Ms = 0.0
    """Beacon interval for power saving: downlink packets wait for the next beacon while the radio dozes; 0: it never
    does."""
    awake_ms: _Ms = 100.0
    """How long the radio stays awake after its last packet."""
    outages_s: tuple[tuple[float, float], ...] = ()
    """Start and length of every outage; starts count from that of the shaper."""
