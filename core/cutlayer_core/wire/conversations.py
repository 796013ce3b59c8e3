"""One session for each device that this process talks to, over one transport."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from cutlayer_core.codecs import Payload
from cutlayer_core.errors import ChunkError, MessageError, PeerStartedAnew, RemoteProtocolError
from cutlayer_core.wire import topics
from cutlayer_core.wire.chunks import reset
from cutlayer_core.wire.counted_transport import CountedTransport
from cutlayer_core.wire.messages import Header, Message
from cutlayer_core.wire.presence import Process
from cutlayer_core.wire.session import WINDOW, Role, Session
from cutlayer_core.wire.transports import Packet

__all__ = ["Conversations"]

_MAX_STRANGERS = 64
_log = logging.getLogger(__name__)


@dataclass
class _Open:
    session: Session
    route: str
    """The topic on which we publish."""
    heard_at: float | None = None
    """When the newest packet arrived, on our clock."""


class Conversations:
    """Takes frames, hands out messages, and publishes what is due. Never waits.

    Invariant: a device has an open conversation, or it was given up, or neither; never both. Nothing is due before
    `due`, which may be too early and is never too late.

    Args:
        own: this process.
        transport: connected.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, own: Process, transport: CountedTransport, clock: Callable[[], float]) -> None:
        self._own, self._transport, self._clock = own, transport, clock
        self._open: dict[str, _Open] = {}
        self._given_up: dict[str, int] = {}
        self._strangers: set[str] = set()
        self.due = float("inf")

    def open(self, device: str, peer_epoch: int | None = None) -> None:
        """Begin a conversation with ``device`` (on the server) or as ``device`` (on a board).

        ``peer_epoch`` is the number in the peer's birth; None accepts the first one heard. The server's frames carry
        its own number XORed with the device's, so that frames for an earlier process of the device are not taken for
        ours.
        """
        self._given_up.pop(device, None)
        role, trial, epoch = self._own
        if peer_epoch is not None and role is Role.SERVER:
            epoch ^= peer_epoch
        elif peer_epoch is not None:
            peer_epoch ^= epoch
        route = self._route(device)
        session = Session(role, trial, device, epoch, peer_epoch, self._transport.largest_chunk(route))
        self._open[device] = _Open(session, route)

    def close(self, device: str) -> None:
        """Forget the conversation of a device that is gone; what was still to be sent to it is dropped."""
        self._open.pop(device, None)

    def give_up(self, device: str, peer_epoch: int) -> None:
        """Do `close`, and tell that process of the device so whenever it speaks again."""
        self.close(device)
        self._given_up[device] = peer_epoch

    def has_given_up(self, device: str, peer_epoch: int) -> bool:
        """Whether this process of the device was given up."""
        return self._given_up.get(device) == peer_epoch

    def reset(self, device: str) -> None:
        """Tell a device that it was given up; one that was not is told nothing."""
        if device in self._given_up:
            self._transport.publish(device, self._route(device), reset(self._given_up[device]))

    def send(self, device: str, header: Header, payload: Payload = b"") -> None:
        """Hand a message to the transport, as far as the window allows; `Endpoint.pump` sends the rest."""
        self._open[device].session.send(Message(header, payload))
        self._flush(device)

    def poll(self, device: str) -> Message | None:
        """The next message from ``device``, if it has already arrived."""
        session = self._open[device].session
        held = session.holds
        message = session.next_event()
        if held and not session.holds:
            self._flush(device)
        return message

    def expect_no_answers(self) -> None:
        """Acknowledge at once what has arrived: for a while we will neither answer nor `pump`."""
        for device, each in self._open.items():
            each.session.expect_no_answer()
            self._flush(device)

    def is_far_ahead(self, device: str) -> bool:
        """Whether more than a window of what was sent to ``device`` has not been acknowledged yet."""
        return self._open[device].session.backlog > WINDOW

    def heard_at(self, device: str) -> float | None:
        """When the newest packet of ``device`` arrived; None if none has."""
        return self._open[device].heard_at

    def waited_s(self, device: str) -> float:
        """Seconds since the newest packet of ``device`` arrived."""
        heard_at = self.heard_at(device)
        return 0.0 if heard_at is None else self._clock() - heard_at

    @property
    def idle(self) -> bool:
        """Whether everything that was sent was acknowledged."""
        return all(each.session.idle for each in self._open.values())

    def reconnected(self, peer: str = topics.SERVER) -> None:
        """Resend what is in flight to a device; to all of them, if the peer is the server or the connection is new."""
        for device, each in self._open.items():
            if peer in (device, topics.SERVER):
                each.session.reconnected()
                self.due = 0.0

    def take(self, device: str, packet: Packet) -> bool:
        """Take a packet of a conversation; returns whether it completed a message.

        Raises:
            RemoteError: the peer broke the protocol; the error names it.
            PeerStartedAnew: the server has given this device up.
        """
        if device in self._given_up:
            self.reset(device)
        elif device in self._open:
            return self._converse(device, packet)
        elif device not in self._strangers and len(self._strangers) < _MAX_STRANGERS:
            self._strangers.add(device)
            _log.warning("dropping packets from %r, with whom there is no conversation", device)
        return False

    def flush_due(self) -> None:
        """Publish what is due now, in every conversation."""
        if self.due > self._clock():
            return
        self.due = float("inf")
        for device in self._open:
            self._flush(device)

    def _converse(self, device: str, packet: Packet) -> bool:
        self._transport.count_received(device, packet)
        each = self._open[device]
        try:
            complete = each.session.receive(packet.payload, self._clock())
            each.heard_at = packet.arrived_at
            self._flush(device)
        except ChunkError as error:
            _log.warning("dropped a frame from %r: %s", device, error)
        except PeerStartedAnew as error:
            if self._own.role is Role.DEVICE:
                raise
            _log.warning("dropped a frame from %r: a device cannot give up a server (%s)", device, error)
        except (MessageError, RemoteProtocolError) as error:
            named = type(error)(f"{device}: {error}")
            named.device = device
            raise named from error
        else:
            return complete
        return False

    def _route(self, device: str) -> str:
        return (topics.up if self._own.role is Role.DEVICE else topics.down)(self._own.trial, device)

    def _flush(self, device: str) -> None:
        each = self._open[device]
        for frame in each.session.frames_to_send(self._clock()):
            self._transport.publish(device, each.route, frame)
        if (deadline := each.session.next_deadline()) is not None:
            self.due = min(self.due, deadline)
