"""Reliable, ordered, exactly-once delivery of messages over a network that may lose, repeat, reorder and delay frames.

MQTT at QoS 1 and 2 loses messages when a broker dies, so frames go at QoS 0 and every data chunk is acknowledged here.
"""

from cutlayer_core.errors import PeerStartedAnew
from cutlayer_core.wire.chunks import CHUNK_BYTES, Kind, parse_all
from cutlayer_core.wire.session.acknowledgements import Acknowledgements
from cutlayer_core.wire.session.incoming import Incoming
from cutlayer_core.wire.session.outgoing import Outgoing

__all__ = ["WINDOW", "Link"]

WINDOW = 4
"""Chunks in flight: enough for 20 Mbit/s at a round trip of 190 ms, and a small message waits behind no more than
these."""


class Link:
    """Both directions between two processes.

    Invariant: messages leave `receive` in the order they were sent, each once, whatever happens to the frames.

    Args:
        sender_epoch: random 64-bit number of this process.
        peer_epoch: number of the only peer process whose frames are taken; None takes the first one heard.
        chunk_bytes: longest body of a frame.
        window: chunks in flight at a time.

    Attributes:
        acknowledgements: owed to the peer.
        frames_taken: number of frames from the peer.
        frames_idle: how many of them brought nothing new: repeated, damaged, or from another process.
    """

    def __init__(
        self, sender_epoch: int, peer_epoch: int | None = None, chunk_bytes: int = CHUNK_BYTES, window: int = WINDOW
    ) -> None:
        self._epoch = sender_epoch
        self._outgoing = Outgoing(sender_epoch, chunk_bytes, window)
        self._incoming = Incoming(peer_epoch)
        self.acknowledgements = Acknowledgements()
        self.frames_taken, self.frames_idle = 0, 0

    def send(self, message: bytes) -> None:
        """Queue a message. Raises `ValueError` if it is empty or larger than a message may be."""
        self._outgoing.send(message)

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
                    news |= self._outgoing.settle(chunk, now)
                elif chunk.kind is Kind.DATA:
                    new, messages = self._incoming.take(chunk)
                    self.acknowledgements.owe(chunk, now, completes=bool(messages))
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
        frames = self._outgoing.frames(now)
        return self.acknowledgements.join(frames, now, in_the_middle=self._incoming.is_in_the_middle)

    def next_deadline(self) -> float | None:
        """When `frames_to_send` has something to repeat, or to acknowledge without an answer; None if nothing."""
        repeat_at = self._outgoing.repeat_at
        due_at = self.acknowledgements.due_at(in_the_middle=self._incoming.is_in_the_middle)
        if repeat_at is None or due_at is None:
            return due_at if repeat_at is None else repeat_at
        return min(due_at, repeat_at)

    def resend(self) -> None:
        """Repeat whatever is in flight: the connection was replaced, so it may be lost."""
        self._outgoing.resend()

    @property
    def backlog(self) -> int:
        """Number of chunks not acknowledged yet."""
        return self._outgoing.backlog

    @property
    def idle(self) -> bool:
        """Whether everything sent was acknowledged and every acknowledgement owed was handed out."""
        return not (self._outgoing.backlog or self.acknowledgements)
