"""Reliable, ordered, exactly-once delivery of messages over a network that may lose, repeat, reorder and delay frames.

MQTT at QoS 1 and 2 loses messages when a broker dies, so frames go at QoS 0 and every data chunk is acknowledged here.
"""

from collections import deque
from dataclasses import dataclass

from cutlayer_core.errors import ChunkError, PeerStartedAnew
from cutlayer_core.wire.chunks import (
    CHUNK_BYTES,
    MAX_MESSAGE_BYTES,
    MOST_WITHOUT_BODY,
    Assembly,
    Chunk,
    Kind,
    parse_all,
    split,
)

__all__ = ["WINDOW", "Link"]

WINDOW = 4
"""Chunks in flight: enough for 20 Mbit/s at a round trip of 190 ms, and no more of them before a small message."""

_SHORTEST_TIMEOUT_S = 1.0
_LONGEST_TIMEOUT_S = 60.0
_ANSWER_S = 0.02
"""How long an acknowledgement may wait for an answer to travel with: little beside a timeout."""
_MOST_OWED = 2
"""Acknowledgements that wait while a message is arriving: half a window, so that its sender can go on."""
_MAX_PARTIAL_MESSAGES = 8
"""Messages being put together or waiting for an earlier one; a peer with a window of 4 chunks needs no more."""


@dataclass(slots=True)
class _InFlight:
    frame: bytes
    sent_at: float
    first: int
    """Position of its first copy among all frames sent; an acknowledgement may be for that one."""
    last: int
    overdue: bool = False


class Link:
    """One direction each way between two processes.

    Invariant: messages leave `receive` in the order they were sent, each once, whatever happens to the frames.

    Chunks are repeated as TCP repeats segments. MQTT keeps their order, so an acknowledgement says that what was sent
    before is lost; without any acknowledgement for a timeout, the oldest chunk is sent again. The timeout follows the
    round trip (RFC 6298), doubles each time, and shrinks only with a chunk that was sent once (Karn's rule): a link
    that is merely slow is not filled with copies.

    An acknowledgement travels with the next chunk of ours if one is likely to follow at once (RFC 1122, 4.2.3.2), as it did
    the last time; until the message is complete, with that of the next chunk of the peer. That halves the packets of a
    conversation in which every message has an answer, and radio time is what packets cost.

    Args:
        sender_epoch: random 64-bit number of this process.
        peer_epoch: that of the peer, whose frames alone are taken; None takes the first that is heard.
        chunk_bytes: longest body of a frame.
        window: chunks in flight at a time.
    """

    def __init__(
        self, sender_epoch: int, peer_epoch: int | None = None, chunk_bytes: int = CHUNK_BYTES, window: int = WINDOW
    ) -> None:
        self._epoch, self._peer_epoch = sender_epoch, peer_epoch
        self._chunk_bytes, self._window = chunk_bytes, window
        self._next_id = 0
        self._waiting: deque[Chunk] = deque()
        self._in_flight: dict[tuple[int, int], _InFlight] = {}  # in the order in which they were last sent
        self._frames_sent = 0
        self._acknowledgements: dict[bytes, None] = {}  # in order; a repeated chunk is owed no second one
        self._owed_since, self._answers_at_once = 0.0, False
        self._round_trip_s = 0.0
        self._timeout_s = _SHORTEST_TIMEOUT_S
        self._progress_at = 0.0
        self._expected_id = 0
        self._partial: dict[int, Assembly] = {}
        self._early: dict[int, memoryview] = {}
        self.frames_taken, self.frames_idle = 0, 0
        """Frames of the peer, and how many of them brought nothing: repeated, damaged, or of another process."""
        self.holds_acknowledgements = False
        """Whether the peer shall send no more for now: what is not acknowledged fills its window."""

    def send(self, message: bytes) -> None:
        """Queue a message. Raises `ValueError` if it is empty or larger than a message may be."""
        self._waiting.extend(split(message, self._epoch, self._next_id, self._chunk_bytes))
        self._next_id += 1

    def receive(self, frame: bytes, now: float) -> list[memoryview]:
        """Take one frame; returns the messages that are complete and next in order, often none.

        Raises:
            ChunkError: the frame is not acceptable; nothing else is affected.
            PeerStartedAnew: the peer has given this process up.
        """
        self.frames_taken += 1
        self.frames_idle += 1  # until it has brought something
        news = False
        messages: list[memoryview] = []
        try:
            for chunk in parse_all(frame):
                if chunk.kind is Kind.ACK:
                    news |= self._settle(chunk, now)
                elif chunk.kind is Kind.DATA:
                    new, messages = self._take(chunk, now)
                    news |= new
                elif chunk.sender_epoch == self._epoch:
                    raise PeerStartedAnew("the other side went on without us")
        finally:
            self.frames_idle -= news
        return messages

    def frames_to_send(self, now: float) -> list[bytes]:
        """Frames to publish now: acknowledgements first, then chunks to be repeated, then new ones."""
        if self.idle:
            return []
        frames = self._chunks_to_send(now)
        owed = self._acknowledgements and not self.holds_acknowledgements
        if frames:
            self._answers_at_once = now <= self._owed_since + _ANSWER_S
        elif owed and now < self._owed_until():
            return []
        elif owed and now > self._owed_since and not self._partial:
            self._answers_at_once = False
        if not owed:
            return frames
        acknowledgements = list(self._acknowledgements)
        self._acknowledgements.clear()
        groups = range(0, len(acknowledgements), MOST_WITHOUT_BODY)
        alone = [b"".join(acknowledgements[start : start + MOST_WITHOUT_BODY]) for start in groups]
        return [*alone[:-1], alone[-1] + frames[0], *frames[1:]] if frames else alone

    def expect_no_answer(self) -> None:
        """Acknowledgements owed now are due: there will be no answer for a while."""
        self._answers_at_once = False

    def _owed_until(self) -> float:
        """When acknowledgements go without an answer of ours; in a message, every other chunk's with the one before."""
        waits = self._answers_at_once and (not self._partial or len(self._acknowledgements) < _MOST_OWED)
        return self._owed_since + _ANSWER_S if waits else self._owed_since

    def _chunks_to_send(self, now: float) -> list[bytes]:
        frames: list[bytes] = []
        if self._in_flight and now >= self._progress_at + self._timeout_s:
            next(iter(self._in_flight.values())).overdue = True
            self._timeout_s = min(2 * self._timeout_s, _LONGEST_TIMEOUT_S)
        for key in [key for key, sent in self._in_flight.items() if sent.overdue]:
            sent = self._in_flight.pop(key)
            frames.append(self._fly(key, sent.frame, now, sent.first))
            self._progress_at = now
        while self._waiting and len(self._in_flight) < self._window:
            if not self._in_flight:
                self._progress_at = now
            chunk = self._waiting.popleft()
            frames.append(self._fly((chunk.message_id, chunk.index), chunk.pack(), now, self._frames_sent))
        return frames

    def next_deadline(self) -> float | None:
        """When `frames_to_send` has something to say again, or to acknowledge without an answer."""
        repeat_at = self._progress_at + self._timeout_s if self._in_flight else None
        if not self._acknowledgements or self.holds_acknowledgements:
            return repeat_at
        return min(self._owed_until(), repeat_at or float("inf"))

    def resend(self) -> None:
        """The connection was replaced: whatever was in flight may be lost."""
        for sent in self._in_flight.values():
            sent.overdue = True

    @property
    def backlog(self) -> int:
        """Chunks that were not acknowledged yet."""
        return len(self._waiting) + len(self._in_flight)

    @property
    def idle(self) -> bool:
        """Whether everything sent was acknowledged and every acknowledgement owed was handed out."""
        return not (self._waiting or self._in_flight or self._acknowledgements)

    def _take(self, chunk: Chunk, now: float) -> tuple[bool, list[memoryview]]:
        """Whether a chunk with a body is a new one, and the messages that it completes."""
        if self._peer_epoch is None:
            self._peer_epoch = chunk.sender_epoch
        if chunk.sender_epoch != self._peer_epoch:
            raise ChunkError("a frame is of another process than the one that announced itself")
        new = False
        messages: list[memoryview] = []
        if chunk.message_id >= self._expected_id and chunk.message_id not in self._early:
            new, messages = self._assemble(chunk)
        if messages or not self._acknowledgements:
            self._owed_since = now
        self._acknowledgements[chunk.acknowledgement().pack()] = None
        return new, messages

    def _assemble(self, chunk: Chunk) -> tuple[bool, list[memoryview]]:
        assembly = self._partial.get(chunk.message_id)
        if assembly is None:
            # The next in order is always let in, or nothing would ever end.
            early = chunk.message_id != self._expected_id
            if early and len(self._partial) + len(self._early) >= _MAX_PARTIAL_MESSAGES:
                raise ChunkError(f"message {chunk.message_id} was begun before {_MAX_PARTIAL_MESSAGES} others ended")
            if early and self._held_bytes() + chunk.total_bytes > MAX_MESSAGE_BYTES:
                raise ChunkError(f"message {chunk.message_id} does not fit beside those that have not ended")
            assembly = self._partial[chunk.message_id] = Assembly(chunk)
        missing = assembly.missing
        message = assembly.add(chunk)
        if message is None:
            return assembly.missing < missing, []
        del self._partial[chunk.message_id]
        self._early[chunk.message_id] = message
        ready = []
        while self._expected_id in self._early:
            ready.append(self._early.pop(self._expected_id))
            self._expected_id += 1
        return True, ready

    def _held_bytes(self) -> int:
        return sum(each.total_bytes for each in self._partial.values()) + sum(map(len, self._early.values()))

    def _fly(self, key: tuple[int, int], frame: bytes, now: float, first: int) -> bytes:
        self._in_flight[key] = _InFlight(frame, now, first, self._frames_sent)
        self._frames_sent += 1
        return frame

    def _settle(self, chunk: Chunk, now: float) -> bool:
        """Take an acknowledgement; tells whether it was waited for."""
        key = (chunk.message_id, chunk.index)
        if chunk.sender_epoch != self._epoch or key not in self._in_flight:
            return False
        settled = self._in_flight.pop(key)
        for sent in self._in_flight.values():
            sent.overdue |= sent.last < settled.first
        self._progress_at = now
        if settled.first == settled.last:
            self._round_trip_s += 0.125 * (now - settled.sent_at - self._round_trip_s)
            longest_seen = max(self._round_trip_s, now - settled.sent_at)
            self._timeout_s = min(max(_SHORTEST_TIMEOUT_S, 4 * longest_seen), _LONGEST_TIMEOUT_S)
        return True
