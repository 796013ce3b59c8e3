"""What goes on in a trial, as seen by anyone who may read its topics; no board or server has to report it."""

import contextlib
from collections import deque

import msgspec

from cutlayer_core.errors import ChunkError, MessageError
from cutlayer_core.wire import topics
from cutlayer_core.wire.chunks import Chunk, Kind, parse_all
from cutlayer_core.wire.messages import Begin, Presence, Smashed, Weights, decode

__all__ = ["DeviceStatus", "Observer"]

_MAX_DEVICES = 1024
_MAX_IN_FLIGHT = 256
_WINDOW_S = 5.0
"""Rates are averaged over this many seconds."""


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One device at one moment; None where nothing was seen yet."""

    device: str
    state: str
    """``offline``; ``waiting`` for a server or the other devices; ``training``, in a pass; ``idle``, between two."""
    samples: int
    epoch: int | None
    """Counted from 1."""
    step: int | None
    """Steps of this epoch that were sent."""
    last_seen_s: float | None
    """Since its last packet."""
    up_kb_s: float
    down_kb_s: float
    round_trip_ms: float | None
    """From a chunk to its acknowledgement as the observer sees them, hence only the round trip to the answering
    side."""
    repeated: float | None
    """Share of the chunks, both ways, that were sent again."""
    backlog_bytes: int
    """Sent and not yet acknowledged, both ways."""


class _Device:
    """What was seen of one device."""

    def __init__(self) -> None:
        self.presence: Presence | None = None
        self.epoch: int | None = None
        self.step: int | None = None
        self.passing = False
        self.seen_at: float | None = None
        self.chunks, self.repeated = 0, 0
        self.round_trip_s: float | None = None
        self._in_flight: dict[tuple[str, int, int, int], tuple[float | None, int]] = {}
        self._packets: deque[tuple[float, str, int]] = deque()
        self._first_at = float("inf")

    def take(self, leaf: str, frame: bytes, now: float) -> None:
        """A packet on one of its two data topics."""
        self._packets.append((now, leaf, len(frame)))
        self._first_at = min(self._first_at, now)
        if leaf == "up":
            self.seen_at = now
        for chunk in parse_all(frame):
            if chunk.kind is Kind.ACK:
                self._settle("down" if leaf == "up" else "up", chunk, now)
            elif chunk.kind is Kind.DATA:
                self._fly(leaf, chunk, now)

    def _fly(self, leaf: str, chunk: Chunk, now: float) -> None:
        self.chunks += 1
        key = (leaf, chunk.sender_epoch, chunk.message_id, chunk.index)
        if key in self._in_flight:
            self.repeated += 1
            self._in_flight[key] = (None, len(chunk.body))  # an acknowledgement could be for either (Karn's rule)
        else:
            if len(self._in_flight) >= _MAX_IN_FLIGHT:  # missed acknowledgements; the oldest is long settled
                self._in_flight.pop(next(iter(self._in_flight)))
            self._in_flight[key] = (now, len(chunk.body))
            if chunk.index == 0:
                self._follow(chunk)

    def rate_kb_s(self, leaf: str, now: float) -> float:
        """Mean over the window, or over the time since the first packet, one way."""
        while self._packets and self._packets[0][0] < now - _WINDOW_S:
            self._packets.popleft()
        seconds = min(max(now - self._first_at, 0.1), _WINDOW_S)
        return sum(size for _, way, size in self._packets if way == leaf) / 1e3 / seconds

    @property
    def backlog_bytes(self) -> int:
        return sum(size for _, size in self._in_flight.values())

    def reset(self) -> None:
        """Forget what was in progress: the device is another process now, or talks to one."""
        self._in_flight.clear()
        self.passing = False

    def _settle(self, way: str, chunk: Chunk, now: float) -> None:
        sent = self._in_flight.pop((way, chunk.sender_epoch, chunk.message_id, chunk.index), None)
        if sent is not None and sent[0] is not None:
            took_s = now - sent[0]
            old_s = took_s if self.round_trip_s is None else self.round_trip_s
            self.round_trip_s = old_s + 0.125 * (took_s - old_s)

    def _follow(self, chunk: Chunk) -> None:
        """A message begins with its header, so the first chunk tells what it is."""
        match decode(bytes(chunk.body)).header:
            case Begin(epoch=epoch, steps=steps):
                self.epoch, self.step, self.passing = epoch + 1, steps, True
            case Smashed(epoch=epoch, step=step):
                self.epoch, self.step, self.passing = epoch + 1, step + 1, True
            case Weights():
                self.passing = False


class Observer:
    """Follows a trial from the packets on its topics; free of sockets and clocks.

    Args:
        trial: its name.
        devices: the expected ones, whether seen or not.
    """

    def __init__(self, trial: str, devices: tuple[str, ...]) -> None:
        self._trial = trial
        self._devices = {name: _Device() for name in devices}
        self._server: Presence | None = None

    @property
    def server_online(self) -> bool:
        """Whether a server leads the trial."""
        return self._server is not None and self._server.online

    def take(self, topic: str, payload: bytes, now: float) -> None:
        """Take one packet; anything that is not ours is ignored."""
        name, leaf = topics.parse(topic)
        with contextlib.suppress(ChunkError, MessageError):
            if leaf in ("state", "control"):
                header = decode(payload).header
                if isinstance(header, Presence):
                    self._meet(name, header, now)
            elif (device := self._device(name)) is not None:
                device.take(leaf, payload, now)

    def statuses(self, now: float) -> list[DeviceStatus]:
        """Every device: the expected ones in their order, then the others as they appeared."""
        return [self._status(name, device, now) for name, device in self._devices.items()]

    def _meet(self, name: str, presence: Presence, now: float) -> None:
        if name == topics.SERVER:
            self._server = presence
            return
        device = self._device(name)
        if device is None:
            return
        if device.presence is None or device.presence.epoch != presence.epoch or not presence.online:
            device.reset()
        if device.presence is not None:
            device.seen_at = now  # the first one is retained, and may be old
        device.presence = presence

    def _device(self, name: str) -> _Device | None:
        if name not in self._devices and len(self._devices) < _MAX_DEVICES:
            self._devices[name] = _Device()
        return self._devices.get(name)

    def _status(self, name: str, device: _Device, now: float) -> DeviceStatus:
        return DeviceStatus(
            device=name,
            state=self._state(device),
            samples=device.presence.samples if device.presence else 0,
            epoch=device.epoch,
            step=device.step,
            last_seen_s=None if device.seen_at is None else now - device.seen_at,
            up_kb_s=device.rate_kb_s("up", now),
            down_kb_s=device.rate_kb_s("down", now),
            round_trip_ms=None if device.round_trip_s is None else 1e3 * device.round_trip_s,
            repeated=device.repeated / device.chunks if device.chunks else None,
            backlog_bytes=device.backlog_bytes,
        )

    def _state(self, device: _Device) -> str:
        if device.presence is None or not device.presence.online:
            return "offline"
        if not self.server_online or self._server is None or device.presence.server != self._server.epoch:
            return "waiting"
        return "training" if device.passing else "idle"
