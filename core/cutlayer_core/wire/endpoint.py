"""The shell that joins sessions with a transport and the clock; both sides use it, and nothing else does I/O for them."""

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from cutlayer_core.codecs import Payload
from cutlayer_core.errors import ChunkError, MessageError, PeerLost, PeerStartedAnew, RemoteProtocolError
from cutlayer_core.wire import topics
from cutlayer_core.wire.chunks import CHUNK_BYTES, HEADER_BYTES, MOST_WITHOUT_BODY, reset
from cutlayer_core.wire.messages import Header, Message, Presence, decode, encode
from cutlayer_core.wire.session import WINDOW, Audience, Role, Session, Speaker
from cutlayer_core.wire.transports import LastWill, Packet, Transport

__all__ = ["Endpoint", "new_epoch", "will_of"]

_RETAINED_S = 0.3
"""How long the broker may take to hand over what it retained."""
_ECHO_S = 3.0
"""How long the broker may take to hand back what we said."""
_LONGEST_WILL_S = 45.0
"""A broker publishes the will of a silent client after one and a half to two keep-alives, of 20 s here."""
_MAX_STRANGERS = 64
_MOST_AT_ONCE = 256
"""Packets taken before what is due is sent again."""
_BESIDE_BYTES = 128 + MOST_WITHOUT_BODY * HEADER_BYTES
"""What an MQTT packet has beside topic and a chunk with a body, generously."""
_log = logging.getLogger(__name__)


def new_epoch() -> int:
    """A number that no other process start has."""
    return secrets.randbits(63)


def will_of(topic: str, birth: Presence) -> LastWill:
    """The last will that goes with a birth: the same process, no longer online."""
    gone = Presence(trial=birth.trial, device=birth.device, online=False, epoch=birth.epoch)
    return LastWill(topic, encode(Message(gone)))


class Endpoint:
    """All conversations of one process over one transport.

    Args:
        role: which side this process is.
        trial: name of the trial, hence of its topics.
        transport: connected.
        epoch: this process's number from `new_epoch`.
        on_presence: called with every birth and will that arrives; it may raise.
        clock: seconds that never go back; `time.monotonic`, or what a test moves.
    """

    def __init__(
        self,
        role: Role,
        trial: str,
        transport: Transport,
        epoch: int,
        on_presence: Callable[[Presence], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._role, self._trial, self._transport, self._epoch = role, trial, transport, epoch
        self._on_presence, self._clock = on_presence, clock
        self._sessions: dict[str, Session] = {}
        self._given_up: dict[str, int] = {}
        self._speaker: Speaker | None = None
        self._audience: Audience | None = None
        self._last_heard: dict[str, float] = {}
        self._due = float("inf")  # nothing has to be sent again before; it may be too early, never too late
        self._reconnections = 0
        self._own_name, self._earlier, self._rival = "", 0, False
        self._echoed = False
        self._topic, self._birth = "", b""  # of our own presence, once the name is ours
        self._strangers: set[str] = set()
        self.sent_bytes: Counter[str] = Counter()
        """Bytes of the MQTT packets published in each device's conversation."""
        self.received_bytes: Counter[str] = Counter()
        """Bytes of the MQTT packets received in each device's conversation."""

    def claim(self, topic: str, birth: Presence, wait_s: float = _LONGEST_WILL_S, earlier: int = 0) -> None:
        """Announce ``birth`` on its retained topic, once no other process is online there.

        A process that lost power stays online until the broker publishes its will, so that is waited for, unless it was
        this one: ``earlier`` is the number of the birth before this.

        Raises:
            PeerLost: another process keeps the name.
        """
        self._own_name, self._earlier = birth.device, earlier
        self._transport.subscribe(topic)
        begun, waited_s = self._clock(), _RETAINED_S
        while (left := begun + waited_s - self._clock()) > 0:
            self.pump(left)
            if self._rival and waited_s < wait_s:
                _log.warning("another process is online as %r; waiting up to %g s for it to go", birth.device, wait_s)
                waited_s = wait_s
            elif not self._rival and waited_s == wait_s:
                break
        if self._rival:
            raise self._name_taken()
        self._topic = topic
        self.announce(birth)
        until = self._clock() + _ECHO_S
        while not self._echoed:
            if (left := until - self._clock()) <= 0:
                _log.warning(
                    "the broker does not hand back our own birth on %s: does the name fit the certificate?", topic
                )
                break
            self.pump(left)

    def announce(self, birth: Presence) -> None:
        """Say who we are, anew; after `claim`."""
        self._birth = encode(Message(birth))
        self._transport.publish_retained(self._topic, self._birth)

    def leave(self, birth: Presence) -> None:
        """Say that we are no longer online, unless the name was never ours."""
        if self._topic:
            farewell = msgspec.structs.replace(birth, online=False)
            self._transport.publish_retained(self._topic, encode(Message(farewell)))
            self._topic = ""

    def open(self, device: str, peer_epoch: int | None = None) -> None:
        """Begin a conversation with ``device`` (on the server) or as ``device`` (on a board).

        ``peer_epoch`` is the number in the peer's birth; None takes the first that is heard. The server's frames carry
        its number with the device's mixed in, so that those for an earlier process of the device are not taken for ours.
        """
        self._given_up.pop(device, None)
        chunk_bytes, own = self._chunk_bytes(self._route(device)), self._epoch
        if peer_epoch is not None and self._role is Role.SERVER:
            own ^= peer_epoch
        elif peer_epoch is not None:
            peer_epoch ^= own
        self._sessions[device] = Session(self._role, self._trial, device, own, peer_epoch, chunk_bytes)

    def close(self, device: str) -> None:
        """Forget the conversation of a device that is gone; what was still to be sent to it is dropped."""
        self._sessions.pop(device, None)

    def give_up(self, device: str, peer_epoch: int) -> None:
        """`close`, and tell that process of the device so whenever it speaks again."""
        self.close(device)
        self._given_up[device] = peer_epoch

    def has_given_up(self, device: str, peer_epoch: int) -> bool:
        """Whether this process of the device was given up."""
        return self._given_up.get(device) == peer_epoch

    def reset(self, device: str) -> None:
        """Tell a device that was given up that it was; one that never was is told nothing."""
        if device not in self._given_up:
            return
        frame = reset(self._given_up[device])
        self.sent_bytes[device] += self._transport.publish(self._route(device), frame)

    def send(self, device: str, header: Header, payload: Payload = b"") -> None:
        """Hand a message to the transport, as far as the window allows; `pump` and `expect` see to the rest."""
        self._sessions[device].send(Message(header, payload))
        self._flush(device)

    def broadcast(self, header: Header, payload: Payload) -> int:
        """Publish a message to all devices, once; returns the number by which each is to be told of it."""
        topic = topics.gradient(self._trial)
        if self._speaker is None:
            self._speaker = Speaker(self._epoch, self._chunk_bytes(topic))
        number, frames = self._speaker.frames(Message(header, payload))
        for frame in frames:
            self.sent_bytes[topics.SERVER] += self._transport.publish(topic, frame)
        return number

    def listen(self, server_epoch: int) -> None:
        """Take messages to all from this process of the server."""
        self._audience = Audience(server_epoch)
        self._transport.subscribe(topics.gradient(self._trial))

    def await_broadcast(self, number: int, patience_s: float) -> Message | None:
        """The message to all of this number; None if it does not come within ``patience_s``."""
        assert self._audience is not None, "only who listens is told of one"
        until = self._clock() + patience_s
        while (message := self._audience.take(number)) is None and (left := until - self._clock()) > 0:
            self.pump(left)
        return message

    def expect(self, device: str, patience_s: float, since: float | None = None) -> Message:
        """The next message in the conversation of ``device``; messages of other devices wait for their turn.

        ``since`` is when the waiting began, on our clock; without it, now.

        Raises:
            PeerLost: nothing at all was heard from the peer for ``patience_s``.
            RemoteError: the peer does not keep to the protocol.
            TransportError: the broker refuses us.
        """
        begun = self._clock() if since is None else since
        while (message := self.poll(device)) is None:
            left = max(begun, self._last_heard.get(device, begun)) + patience_s - self._clock()
            if not self.pump(max(left, 0.0)) and left <= 0:  # what is here already counts as heard
                raise self._silent(device, patience_s)
        return message

    def poll(self, device: str) -> Message | None:
        """The next message of ``device`` if it is here already."""
        session = self._sessions[device]
        held = session.holds
        message = session.next_event()
        if held and not session.holds:
            self._flush(device)
        return message

    def expect_no_answers(self) -> None:
        """Acknowledge what arrived, now: for a while there will be neither an answer of ours nor a `pump`."""
        for device, session in self._sessions.items():
            session.expect_no_answer()
            self._flush(device)

    def await_room(self, device: str, patience_s: float) -> Message | None:
        """Wait until what was said last is under way, and at most a window of it: who speaks on is not far ahead.

        Returns a message of the peer if one comes meanwhile.

        Raises:
            PeerLost: nothing at all was heard from the peer for ``patience_s``.
        """
        begun = self._clock()
        while (message := self.poll(device)) is None and self._sessions[device].backlog > WINDOW:
            left = max(begun, self._last_heard.get(device, begun)) + patience_s - self._clock()
            if not self.pump(max(left, 0.0)) and left <= 0:
                raise self._silent(device, patience_s)
        return message

    def waited_s(self, device: str) -> float:
        """Seconds since the newest packet of ``device`` arrived."""
        return self._clock() - self._last_heard.get(device, self._clock())

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything sent was acknowledged, or nothing arrived for ``timeout_s``; tells whether it was.

        Whatever arrives, ten times as long is not waited.
        """
        now = self._clock()
        deadline, last = now + timeout_s, now + 10 * timeout_s
        while not all(session.idle for session in self._sessions.values()):
            if (left := min(deadline, last) - self._clock()) <= 0:
                return False
            if self.pump(left):
                deadline = self._clock() + timeout_s
        return True

    def pump(self, timeout_s: float) -> bool:
        """Take packets up to the end of a message, waiting up to ``timeout_s`` for the first; publish what is due.

        With a thousand devices it must not look at each of them for each packet. Tells whether there was a packet.
        """
        # Below 1 s, so that Ctrl-C is obeyed; above 1 ms, lest rounding make a deadline of now a busy loop.
        pause = min(timeout_s, max(self._due - self._clock(), 0.001), 0.5)
        taken, complete = 0, False
        while not complete and taken < _MOST_AT_ONCE and (packet := self._transport.receive(pause)) is not None:
            complete = self._take(packet)
            taken, pause = taken + 1, 0.0
        if self._transport.reconnections() != self._reconnections:
            self._reconnections = self._transport.reconnections()
            for session in self._sessions.values():
                session.reconnected()
            self._due = 0.0
        if self._due <= self._clock():
            self._due = float("inf")
            for device in self._sessions:
                self._flush(device)
        return taken > 0

    def _silent(self, device: str, patience_s: float) -> PeerLost:
        peer = device if self._role is Role.SERVER else "the server"
        return PeerLost(f"nothing was heard from {peer} for {patience_s:g} s")

    def _chunk_bytes(self, topic: str) -> int:
        """What the broker lets through on this topic."""
        room = self._transport.max_packet_bytes - len(topic.encode()) - HEADER_BYTES - _BESIDE_BYTES
        return min(CHUNK_BYTES, max(room, 1))

    def _route(self, device: str) -> str:
        return (topics.up if self._role is Role.DEVICE else topics.down)(self._trial, device)

    def _flush(self, device: str) -> None:
        session = self._sessions[device]
        for frame in session.frames_to_send(self._clock()):
            self.sent_bytes[device] += self._transport.publish(self._route(device), frame)
        if (deadline := session.next_deadline()) is not None:
            self._due = min(self._due, deadline)

    def _take(self, packet: Packet) -> bool:
        """Tells whether it was the end of a message, or a birth."""
        device, leaf = topics.parse(packet.topic)
        if leaf in ("state", "control"):
            self._take_presence(device, packet.payload)
            return True
        if leaf == "gradient":
            self._overhear(packet)
        elif device in self._given_up:
            self.reset(device)
        elif device in self._sessions:
            return self._converse(device, packet)
        elif device not in self._strangers and len(self._strangers) < _MAX_STRANGERS:
            self._strangers.add(device)
            _log.warning("dropping packets from %r, with whom there is no conversation", device)
        return False

    def _converse(self, device: str, packet: Packet) -> bool:
        """Take a packet of a conversation; tells whether it was the end of a message."""
        self.received_bytes[device] += packet.wire_bytes
        try:
            complete = self._sessions[device].receive(packet.payload, self._clock())
            self._last_heard[device] = packet.arrived_at
            self._flush(device)
        except ChunkError as error:
            _log.warning("dropped a frame from %r: %s", device, error)
        except PeerStartedAnew as error:
            if self._role is Role.DEVICE:
                raise
            _log.warning("dropped a frame from %r: a device cannot give up a server (%s)", device, error)
        except (MessageError, RemoteProtocolError) as error:
            named = type(error)(f"{device}: {error}")
            named.device = device
            raise named from error
        else:
            return complete
        return False

    def _overhear(self, packet: Packet) -> None:
        """Take a part of a message to all."""
        if self._audience is None:
            return
        self.received_bytes[topics.SERVER] += packet.wire_bytes
        try:
            self._audience.receive(packet.payload)
        except ChunkError as error:
            _log.warning("dropped a frame to all devices: %s", error)

    def _take_presence(self, sender: str, payload: bytes) -> None:
        try:
            header = decode(payload).header
        except MessageError as error:
            _log.warning("dropped the presence of %r: %s", sender, error)
            return
        if not isinstance(header, Presence) or (header.trial, header.device) != (self._trial, sender):
            _log.warning("dropped a message on the state topic of %r that is not its presence", sender)
        elif sender != self._own_name:
            if self._role is Role.DEVICE and sender != topics.SERVER:
                return  # some brokers hand over more than was asked for
            if header.online:
                self._resend_to(sender)
            self._on_presence(header)
        elif header.epoch == self._epoch:
            self._echoed = True
            if not header.online and self._topic:  # our own will, of a connection that was replaced
                self._transport.publish_retained(self._topic, self._birth)
        else:
            self._rival = header.online and header.epoch != self._earlier
            if self._rival and self._topic:
                raise self._name_taken()
            if self._topic:  # the will of another process of our name took the place of our birth
                self._transport.publish_retained(self._topic, self._birth)

    def _resend_to(self, peer: str) -> None:
        """The peer has a new connection, perhaps; what was in flight to it may be lost."""
        for device, session in self._sessions.items():
            if peer in (device, topics.SERVER):
                session.reconnected()
                self._due = 0.0

    def _name_taken(self) -> PeerLost:
        what = "server of this trial" if self._role is Role.SERVER else f"device named {self._own_name!r}"
        return PeerLost(f"there is another {what} on this broker; each needs a name of its own")
