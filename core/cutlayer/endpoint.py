"""The shell that joins sessions with a transport and the clock; both sides use it, and nothing else does I/O for them."""

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from cutlayer import topics
from cutlayer.codecs import Payload
from cutlayer.errors import ChunkError, MessageError, PeerLost, RemoteProtocolError
from cutlayer.messages import Header, Message, Presence, decode, encode
from cutlayer.session import Role, Session
from cutlayer.transports import LastWill, Packet, Transport

__all__ = ["Endpoint", "new_epoch", "will_of"]

_RETAINED_S = 0.3
"""How long the broker may take to hand over what it retained."""
_ECHO_S = 3.0
"""How long the broker may take to hand back what we said."""
_LONGEST_WILL_S = 45.0
"""A broker publishes the will of a silent client after one and a half to two keep-alives, of 20 s here."""
_MAX_STRANGERS = 64
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
        clock: seconds that never go back.
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
        self._last_heard: dict[str, float] = {}
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

        ``peer_epoch`` is the number in the peer's birth; None takes the first that is heard.
        """
        self._sessions[device] = Session(self._role, self._trial, device, self._epoch, peer_epoch)

    def close(self, device: str) -> None:
        """Forget the conversation of a device that is gone; what was still to be sent to it is dropped."""
        self._sessions.pop(device, None)

    def send(self, device: str, header: Header, payload: Payload = b"") -> None:
        """Hand a message to the transport, as far as the window allows; `pump` and `expect` see to the rest."""
        self._sessions[device].send(Message(header, payload))
        self._flush(device)

    def expect(self, device: str, patience_s: float) -> Message:
        """The next message in the conversation of ``device``; messages of other devices wait for their turn.

        Raises:
            PeerLost: nothing at all was heard from the peer for ``patience_s``.
            RemoteError: the peer does not keep to the protocol.
            TransportError: the broker refuses us.
        """
        session, begun = self._sessions[device], self._clock()
        while (message := session.next_event()) is None:
            left = max(begun, self._last_heard.get(device, begun)) + patience_s - self._clock()
            if left <= 0:
                peer = device if self._role is Role.SERVER else "the server"
                raise PeerLost(f"nothing was heard from {peer} for {patience_s:g} s")
            self.pump(left)
        return message

    def poll(self, device: str) -> Message | None:
        """The next message of ``device`` if it is here already."""
        return self._sessions[device].next_event()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything sent was acknowledged; tells whether it was."""
        deadline = self._clock() + timeout_s
        while not all(session.idle for session in self._sessions.values()):
            if (left := deadline - self._clock()) <= 0:
                return False
            self.pump(left)
        return True

    def pump(self, timeout_s: float) -> None:
        """Take one packet if one arrives within ``timeout_s``, and publish what is due."""
        due = (session.next_deadline() for session in self._sessions.values())
        soonest = min((each for each in due if each is not None), default=float("inf"))
        # Below 1 s, so that Ctrl-C is obeyed; above 1 ms, lest rounding make a deadline of now a busy loop.
        pause = min(timeout_s, max(soonest - self._clock(), 0.001), 0.5)
        packet = self._transport.receive(pause)
        if packet is not None:
            self._take(packet)
        if self._transport.reconnections() != self._reconnections:
            self._reconnections = self._transport.reconnections()
            for session in self._sessions.values():
                session.reconnected()
        for device in self._sessions:
            self._flush(device)

    def _flush(self, device: str) -> None:
        route = topics.up if self._role is Role.DEVICE else topics.down
        for frame in self._sessions[device].frames_to_send(self._clock()):
            self.sent_bytes[device] += self._transport.publish(route(self._trial, device), frame)

    def _take(self, packet: Packet) -> None:
        device, leaf = topics.parse(packet.topic)
        if leaf in ("state", "control"):
            self._take_presence(device, packet.payload)
        elif device not in self._sessions:
            if device not in self._strangers and len(self._strangers) < _MAX_STRANGERS:
                self._strangers.add(device)
                _log.warning("dropping packets from %r, with whom there is no conversation", device)
        else:
            self.received_bytes[device] += packet.wire_bytes
            try:
                self._sessions[device].receive(packet.payload, self._clock())
                self._last_heard[device] = self._clock()
            except ChunkError as error:
                _log.warning("dropped a frame from %r: %s", device, error)
            except (MessageError, RemoteProtocolError) as error:
                named = type(error)(f"{device}: {error}")
                named.device = device
                raise named from error

    def _take_presence(self, sender: str, payload: bytes) -> None:
        try:
            header = decode(payload).header
        except MessageError as error:
            _log.warning("dropped the presence of %r: %s", sender, error)
            return
        if not isinstance(header, Presence) or (header.trial, header.device) != (self._trial, sender):
            _log.warning("dropped a message on the state topic of %r that is not its presence", sender)
        elif sender != self._own_name:
            self._on_presence(header)
        elif header.epoch == self._epoch:
            self._echoed = True
        else:
            self._rival = header.online and header.epoch != self._earlier
            if self._rival and self._topic:
                raise self._name_taken()
            if self._topic:  # the will of another process of our name took the place of our birth
                self._transport.publish_retained(self._topic, self._birth)

    def _name_taken(self) -> PeerLost:
        what = "server of this trial" if self._role is Role.SERVER else f"device named {self._own_name!r}"
        return PeerLost(f"there is another {what} on this broker; each needs a name of its own")
