"""A session: the link that delivers messages, and the conversation that says which are allowed."""

from collections import deque

import msgspec

from cutlayer.errors import RemoteProtocolError
from cutlayer.messages import Message, decode, encode
from cutlayer.session.conversation import Conversation, Role, State
from cutlayer.session.link import Link

__all__ = ["Session"]


class Session:
    """One side of the conversation between one device and the server, free of sockets, threads and clocks.

    The caller passes frames and the time in, publishes what `frames_to_send` returns, and takes messages from
    `next_event`. ``now`` is any clock that never goes back, in seconds.
    """

    def __init__(self, role: Role, trial: str, device: str, sender_epoch: int, peer_epoch: int | None = None) -> None:
        self._conversation = Conversation(role)
        self._trial, self._device = trial, device
        self._link = Link(sender_epoch, peer_epoch)
        self._events: deque[Message] = deque()

    def send(self, message: Message) -> None:
        """Queue a message, stamped with trial and device. Raises `LocalProtocolError` if it is not allowed now."""
        header = msgspec.structs.replace(message.header, trial=self._trial, device=self._device)
        self._conversation.said(header)
        self._link.send(encode(Message(header, message.payload)))

    def receive(self, frame: bytes, now: float) -> None:
        """Take a frame from the network.

        Raises:
            ChunkError: the frame is damaged or foreign; the caller may drop it and go on.
            MessageError, RemoteProtocolError: the peer does not keep to the protocol; the session is over.
        """
        for data in self._link.receive(frame, now):
            if self._conversation.state is State.CLOSED:
                continue  # the peer spoke before it heard the end
            message = decode(data)
            stamp = (message.header.trial, message.header.device)
            if stamp != (self._trial, self._device):
                raise RemoteProtocolError(f"a message for trial and device {stamp} on the topic of {self._device!r}")
            self._conversation.heard(message.header)
            self._events.append(message)

    def next_event(self) -> Message | None:
        """The oldest message that was received and not yet taken."""
        return self._events.popleft() if self._events else None

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
    def idle(self) -> bool:
        """Whether nothing is left to send, and all that was sent has arrived."""
        return self._link.idle
