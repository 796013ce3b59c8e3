"""A session: the link that delivers messages, and the conversation that says which are allowed."""

from collections import deque

import msgspec

from cutlayer_core.errors import RemoteProtocolError
from cutlayer_core.wire.chunks import CHUNK_BYTES, MAX_MESSAGE_BYTES
from cutlayer_core.wire.messages import Message, decode, encode
from cutlayer_core.wire.session.conversation import Conversation, Role, State
from cutlayer_core.wire.session.link import Link

__all__ = ["Session"]

_ENOUGH_WAITING, _ENOUGH_BYTES = 4, 16 << 20
"""Messages not taken yet, by number and bytes: with this many the peer is made to pause."""
_MOST_WAITING, _MOST_BYTES = 16, 2 * MAX_MESSAGE_BYTES
"""A peer that does not pause has filled its window of 4 chunks by then three times over."""
_IDLE_FRAMES, _IDLE_SHARE = 1000, 0.9
"""A peer floods us if this many of its frames, and this share of all since the last message, brought nothing new."""


class Session:
    """One side of the conversation between one device and the server, free of sockets, threads and clocks.

    The caller passes frames and the time in, publishes what `frames_to_send` returns, and takes messages from
    `next_event`. ``now`` is the time in seconds on any monotonic clock.
    """

    def __init__(
        self,
        role: Role,
        trial: str,
        device: str,
        sender_epoch: int,
        peer_epoch: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._conversation = Conversation(role)
        self._trial, self._device = trial, device
        self._link = Link(sender_epoch, peer_epoch, chunk_bytes)
        self._taken, self._idle, self._waiting_bytes = 0, 0, 0
        self._events: deque[Message] = deque()

    def send(self, message: Message) -> None:
        """Queue a message, stamped with trial and device. Raises `LocalProtocolError` if it is not allowed now."""
        header = msgspec.structs.replace(message.header, trial=self._trial, device=self._device)
        self._conversation.said(header)
        self._link.send(encode(Message(header, message.payload)))

    def receive(self, frame: bytes, now: float) -> bool:
        """Take a frame from the network; returns whether it completed a message.

        Raises:
            ChunkError: the frame is damaged or foreign; the caller may drop it and go on.
            MessageError, RemoteProtocolError: the peer broke the protocol; the session is over.
            PeerStartedAnew: the peer has given this process up.
        """
        self._bound_flood()
        waiting = len(self._events)
        for data in self._link.receive(frame, now):
            if self._conversation.state is State.CLOSED:
                continue  # the peer sent it before it heard of the end
            message = decode(data)
            stamp = (message.header.trial, message.header.device)
            if stamp != (self._trial, self._device):
                raise RemoteProtocolError(f"a message for trial and device {stamp} on the topic of {self._device!r}")
            self._conversation.heard(message.header)
            if len(self._events) >= _MOST_WAITING or (self._events and self._waiting_bytes + len(data) > _MOST_BYTES):
                raise RemoteProtocolError(f"sent message after message, though {len(self._events)} wait to be taken")
            self._events.append(message)
            self._waiting_bytes += len(message.payload)
            self._taken, self._idle = self._link.frames_taken, self._link.frames_idle
        self._hold()
        return len(self._events) > waiting

    def next_event(self) -> Message | None:
        """The oldest message that was received and not yet taken."""
        if not self._events:
            return None
        message = self._events.popleft()
        self._waiting_bytes -= len(message.payload)
        self._hold()
        return message

    def frames_to_send(self, now: float) -> list[bytes]:
        """Frames to publish now, in this order."""
        return self._link.frames_to_send(now)

    def next_deadline(self) -> float | None:
        """When `frames_to_send` should be called again at the latest; None while nothing is owed."""
        return self._link.next_deadline()

    def reconnected(self) -> None:
        """The transport has a new connection; what was in flight may be lost and is due again."""
        self._link.resend()

    @property
    def state(self) -> State:
        """Where the conversation stands."""
        return self._conversation.state

    @property
    def holds(self) -> bool:
        """Whether so much waits for `next_event` that acknowledgements are held back."""
        return self._link.acknowledgements.held_back

    @property
    def backlog(self) -> int:
        """Chunks that the peer has not acknowledged yet."""
        return self._link.backlog

    def expect_no_answer(self) -> None:
        """Send acknowledgements now, without waiting for an answer of ours."""
        self._link.acknowledgements.expect_no_answer()

    def _hold(self) -> None:
        enough = len(self._events) >= _ENOUGH_WAITING or self._waiting_bytes >= _ENOUGH_BYTES
        self._link.acknowledgements.held_back = enough

    def _bound_flood(self) -> None:
        """Raises `RemoteProtocolError` if hardly any frame brings anything new, which no device of ours does."""
        taken, idle = self._link.frames_taken - self._taken, self._link.frames_idle - self._idle
        if idle >= _IDLE_FRAMES and idle > _IDLE_SHARE * taken:
            raise RemoteProtocolError(f"{idle} of its last {taken} frames brought nothing: it sends without need")

    @property
    def idle(self) -> bool:
        """Whether nothing is left to send, and all that was sent has arrived."""
        return self._link.idle
