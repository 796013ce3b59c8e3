"""Our chunks on their way to the peer: a window of them, each repeated until it is acknowledged."""

from collections import deque
from dataclasses import dataclass

from cutlayer_core.wire.chunks import Chunk, split
from cutlayer_core.wire.session.retransmission import RetransmissionTimer

__all__ = ["Outgoing"]


@dataclass(slots=True)
class _InFlight:
    frame: bytes
    sent_at: float
    first: int
    """Position of its first copy among all frames sent; an acknowledgement may be for that one."""
    last: int
    overdue: bool = False


class Outgoing:
    """The sending half of a link.

    Invariant: a chunk waits, or is in flight, or was acknowledged; at most a window of them is in flight.

    MQTT keeps frames in order, so an acknowledgement tells that whatever was sent earlier and is still unacknowledged
    is lost. If none arrives within the timeout, the oldest chunk is sent again.

    Args:
        epoch: random 64-bit number of this process.
        chunk_bytes: longest body of a frame.
        window: chunks in flight at a time.
    """

    def __init__(self, epoch: int, chunk_bytes: int, window: int) -> None:
        self._epoch, self._chunk_bytes, self._window = epoch, chunk_bytes, window
        self._next_id = 0
        self._waiting: deque[Chunk] = deque()
        self._in_flight: dict[tuple[int, int], _InFlight] = {}  # in the order in which they were last sent
        self._frames_sent = 0
        self._timer = RetransmissionTimer()

    def send(self, message: bytes) -> None:
        """Queue a message. Raises `ValueError` if it is empty or larger than a message may be."""
        self._waiting.extend(split(message, self._epoch, self._next_id, self._chunk_bytes))
        self._next_id += 1

    def frames(self, now: float) -> list[bytes]:
        """Frames to publish now: chunks to be repeated, then new ones."""
        frames: list[bytes] = []
        if self._in_flight and now >= self._timer.expires_at:
            next(iter(self._in_flight.values())).overdue = True
            self._timer.back_off()
        for key in [key for key, sent in self._in_flight.items() if sent.overdue]:
            sent = self._in_flight.pop(key)
            frames.append(self._fly(key, sent.frame, now, sent.first))
            self._timer.restart(now)
        while self._waiting and len(self._in_flight) < self._window:
            if not self._in_flight:
                self._timer.restart(now)
            chunk = self._waiting.popleft()
            frames.append(self._fly((chunk.message_id, chunk.index), chunk.pack(), now, self._frames_sent))
        return frames

    def settle(self, acknowledgement: Chunk, now: float) -> bool:
        """Take an acknowledgement; returns whether it was waited for."""
        key = (acknowledgement.message_id, acknowledgement.index)
        if acknowledgement.sender_epoch != self._epoch or key not in self._in_flight:
            return False
        settled = self._in_flight.pop(key)
        for sent in self._in_flight.values():
            sent.overdue |= sent.last < settled.first
        self._timer.restart(now)
        if settled.first == settled.last:
            self._timer.measure(now - settled.sent_at)
        return True

    def resend(self) -> None:
        """Repeat whatever is in flight, since it may be lost."""
        for sent in self._in_flight.values():
            sent.overdue = True

    @property
    def repeat_at(self) -> float | None:
        """When a chunk is to be sent again; None while none is in flight."""
        return self._timer.expires_at if self._in_flight else None

    @property
    def backlog(self) -> int:
        """Number of chunks not acknowledged yet."""
        return len(self._waiting) + len(self._in_flight)

    def _fly(self, key: tuple[int, int], frame: bytes, now: float, first: int) -> bytes:
        self._in_flight[key] = _InFlight(frame, now, first, self._frames_sent)
        self._frames_sent += 1
        return frame
