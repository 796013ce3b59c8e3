"""Reliable, ordered, exactly-once delivery of messages over a network that may lose, repeat, reorder and delay frames.

MQTT at QoS 1 and 2 loses messages when a broker dies, so frames go at QoS 0 and every data chunk is acknowledged here.
"""

from collections import deque
from dataclasses import dataclass

from cutlayer.chunks import CHUNK_BYTES, Assembly, Chunk, Kind, parse, split
from cutlayer.errors import ChunkError

__all__ = ["Link"]

_SHORTEST_TIMEOUT_S = 1.0
_LONGEST_TIMEOUT_S = 16.0
_MAX_PARTIAL_MESSAGES = 8
"""Messages being put together or waiting for an earlier one; a peer with a window of 4 chunks needs no more."""


@dataclass
class _InFlight:
    frame: bytes
    sent_at: float
    tries: int = 1


class Link:
    """One direction each way between two processes.

    Invariant: messages leave `receive` in the order they were sent, each once, whatever happens to the frames.

    Args:
        sender_epoch: random 64-bit number of this process; the peer forgets half-received messages of another one.
        chunk_bytes: longest body of a frame.
        window: chunks in flight at a time.
    """

    def __init__(self, sender_epoch: int, chunk_bytes: int = CHUNK_BYTES, window: int = 4) -> None:
        self._epoch, self._chunk_bytes, self._window = sender_epoch, chunk_bytes, window
        self._next_id = 0
        self._waiting: deque[Chunk] = deque()
        self._in_flight: dict[tuple[int, int], _InFlight] = {}
        self._acknowledgements: deque[Chunk] = deque()
        self._round_trip_s = 0.1
        self._peer_epoch: int | None = None
        self._expected_id = 0
        self._partial: dict[int, Assembly] = {}
        self._early: dict[int, bytes] = {}

    def send(self, message: bytes) -> None:
        """Queue a message. Raises `ValueError` if it is empty or larger than a message may be."""
        self._waiting.extend(split(message, self._epoch, self._next_id, self._chunk_bytes))
        self._next_id += 1

    def receive(self, frame: bytes, now: float) -> list[bytes]:
        """Take one frame; returns the messages that are complete and next in order, often none.

        Raises:
            ChunkError: the frame is not acceptable; nothing but its own message is affected.
        """
        chunk = parse(frame)
        if chunk.kind is Kind.ACK:
            self._settle(chunk, now)
            return []
        if chunk.sender_epoch != self._peer_epoch:
            self._peer_epoch, self._expected_id = chunk.sender_epoch, 0
            self._partial.clear()
            self._early.clear()
        if chunk.message_id < self._expected_id or chunk.message_id in self._early:
            self._acknowledgements.append(chunk.acknowledgement())
            return []
        return self._assemble(chunk)

    def frames_to_send(self, now: float) -> list[bytes]:
        """Frames to publish now: acknowledgements, chunks whose acknowledgement is overdue, then new chunks."""
        frames = [chunk.pack() for chunk in self._acknowledgements]
        self._acknowledgements.clear()
        for sent in self._in_flight.values():
            if sent.sent_at + self._timeout_s(sent) <= now:
                sent.sent_at, sent.tries = now, sent.tries + 1
                frames.append(sent.frame)
        while self._waiting and len(self._in_flight) < self._window:
            chunk = self._waiting.popleft()
            frame = chunk.pack()
            self._in_flight[chunk.message_id, chunk.index] = _InFlight(frame, now)
            frames.append(frame)
        return frames

    def next_deadline(self) -> float | None:
        """When `frames_to_send` has something to repeat, unless acknowledgements come first."""
        return min((sent.sent_at + self._timeout_s(sent) for sent in self._in_flight.values()), default=None)

    def resend(self) -> None:
        """The connection was replaced: whatever was in flight is due at once."""
        for sent in self._in_flight.values():
            sent.sent_at, sent.tries = float("-inf"), 1

    @property
    def idle(self) -> bool:
        """Whether everything sent was acknowledged and every acknowledgement owed was handed out."""
        return not (self._waiting or self._in_flight or self._acknowledgements)

    def _assemble(self, chunk: Chunk) -> list[bytes]:
        assembly = self._partial.get(chunk.message_id)
        if assembly is None:
            if len(self._partial) + len(self._early) >= _MAX_PARTIAL_MESSAGES:
                raise ChunkError(f"message {chunk.message_id} was begun before {_MAX_PARTIAL_MESSAGES} others ended")
            assembly = self._partial[chunk.message_id] = Assembly(chunk)
        message = assembly.add(chunk)
        self._acknowledgements.append(chunk.acknowledgement())
        if message is None:
            return []
        del self._partial[chunk.message_id]
        self._early[chunk.message_id] = message
        ready = []
        while self._expected_id in self._early:
            ready.append(self._early.pop(self._expected_id))
            self._expected_id += 1
        return ready

    def _settle(self, chunk: Chunk, now: float) -> None:
        if chunk.sender_epoch != self._epoch:
            return
        sent = self._in_flight.pop((chunk.message_id, chunk.index), None)
        if sent is not None and sent.tries == 1:
            # Only chunks sent once tell a round trip (Karn's rule); smoothing as in RFC 6298.
            self._round_trip_s += 0.125 * (now - sent.sent_at - self._round_trip_s)

    def _timeout_s(self, sent: _InFlight) -> float:
        base = max(_SHORTEST_TIMEOUT_S, 4 * self._round_trip_s)
        return float(min(_LONGEST_TIMEOUT_S, base * 2 ** (sent.tries - 1)))
