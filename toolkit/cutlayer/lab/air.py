"""When data sent over a link arrive: pure arithmetic on a clock that is passed in."""

import math
import random
from bisect import bisect_right
from collections.abc import Iterator
from typing import Literal

from cutlayer_core.record.link import Link

__all__ = ["Air", "Way"]

Way = Literal["up", "down"]
_FRAMING = 1.04
"""Overhead of Ethernet, IP and TCP headers on full segments of 1460 bytes, including their acknowledgements."""


class Air:
    """The state of one link. All times are seconds since it came up.

    Invariant: equal seeds give equal stalls at equal times, whatever is sent.

    Args:
        link: its properties.
        seed: of stalls and jitter.
    """

    def __init__(self, link: Link, seed: int) -> None:
        self._link = link
        self._jitter = random.Random(seed)
        self._stalls = _stalls(link, random.Random(seed + 1))
        self._begins, self._ends = [-1.0], [-1.0]
        self._free = {"up": 0.0, "down": 0.0}
        self._last = {"up": 0.0, "down": 0.0}
        self._awake_until = 0.0

    def send(self, way: Way, payload_bytes: int, now: float) -> tuple[float, float]:
        """Reserve the air; returns when the last bit has left, and when it arrives at the other end."""
        link = self._link
        shared = max(self._free.values()) if link.half_duplex else self._free[way]
        start = self._released(max(now, shared))
        if way == "down":
            start = self._heard(start)
        rate = link.up_mbit_s if way == "up" else link.down_mbit_s
        left = start + payload_bytes * 8 * _FRAMING / (rate * 1e6)
        self._free[way] = left
        self._awake_until = max(self._awake_until, left + link.awake_ms / 1e3)
        arrives = left + (link.delay_ms + self._jitter.random() * link.jitter_ms) / 1e3
        self._last[way] = arrives = max(arrives, self._last[way])
        return left, arrives

    def outage_end(self, now: float) -> float:
        """When the present outage is over; ``now`` itself if there is none."""
        return next((begin + length for begin, length in self._link.outages_s if begin <= now < begin + length), now)

    def _released(self, at: float) -> float:
        """The first moment from ``at`` on at which anything passes."""
        while self._begins[-1] <= at:
            begin, end = next(self._stalls)
            self._begins.append(begin)
            self._ends.append(end)
        at = max(at, self._ends[bisect_right(self._begins, at) - 1])
        return self.outage_end(at)

    def _heard(self, at: float) -> float:
        """When a radio that may be dozing listens next: beacons come at fixed times."""
        beacon_s = self._link.beacon_ms / 1e3
        return at if not beacon_s or at < self._awake_until else math.ceil(at / beacon_s) * beacon_s


def _stalls(link: Link, generator: random.Random) -> Iterator[tuple[float, float]]:
    """Begin and end of each stall, endlessly."""
    if not link.stall_share or not link.stall_ms:
        yield math.inf, math.inf
    mean_s, at = link.stall_ms / 1e3, 0.0
    pause_s = mean_s * (1 - link.stall_share) / link.stall_share if link.stall_share else math.inf
    while True:
        begin = at + generator.expovariate(1 / pause_s)
        at = begin + generator.expovariate(1 / mean_s)
        yield begin, at
