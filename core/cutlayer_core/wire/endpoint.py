"""The loop that ties conversations to a transport and the clock: the only place in board and server that waits."""

import logging
import time
from collections.abc import Callable

from cutlayer_core.errors import MessageError, PeerLost
from cutlayer_core.wire import topics
from cutlayer_core.wire.broadcasts import Broadcasts
from cutlayer_core.wire.conversations import Conversations
from cutlayer_core.wire.counted_transport import CountedTransport
from cutlayer_core.wire.messages import Message, Presence, decode
from cutlayer_core.wire.presence import OwnPresence, Process
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.transports import Packet, Transport

__all__ = ["Endpoint"]

_RETAINED_S = 0.3
"""How long the broker may take to deliver what it retained."""
_ECHO_S = 3.0
"""How long the broker may take to echo what we published."""
_LONGEST_WILL_S = 45.0
"""A broker publishes the will of a silent client after one and a half to two keep-alives, of 20 s here."""
_MOST_AT_ONCE = 256
"""Packets to take before sending what is due again."""
_log = logging.getLogger(__name__)


class Endpoint:
    """One process's end of a trial, over one transport.

    Invariant: packets are taken, and what is due is sent, only while one of its methods waits.

    Args:
        role: which side this process is.
        trial: name of the trial, hence of its topics.
        transport: connected.
        epoch: this process's number from `new_epoch`.
        on_presence: called with every birth and will of a peer; it may raise.
        clock: a monotonic clock in seconds; `time.monotonic`, or one that a test moves.

    Attributes:
        presence: our own birth at the broker.
        conversations: one with each device.
        broadcasts: messages to all devices.
        transport: counts the bytes of each conversation.
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
        self._own, self._on_presence, self._clock = Process(role, trial, epoch), on_presence, clock
        self.transport = CountedTransport(transport)
        self.presence = OwnPresence(self._own, self.transport)
        self.conversations = Conversations(self._own, self.transport, clock)
        self.broadcasts = Broadcasts(self._own, self.transport)

    def claim(self, topic: str, birth: Presence, wait_s: float = _LONGEST_WILL_S, earlier: int = 0) -> None:
        """Announce ``birth`` on its retained topic, once no other process is online there.

        A process that lost power stays online until the broker publishes its will, so this waits for the will, unless
        that process was an earlier one of our own: ``earlier`` is the number of our birth before this one.

        Raises:
            PeerLost: another process keeps the name.
        """
        self.presence.watch(birth.device, topic, earlier)
        begun, waited_s = self._clock(), _RETAINED_S
        while (left := begun + waited_s - self._clock()) > 0:
            self.pump(left)
            if self.presence.rival and waited_s < wait_s:
                _log.warning("another process is online as %r; waiting up to %g s for it to go", birth.device, wait_s)
                waited_s = wait_s
            elif not self.presence.rival and waited_s == wait_s:
                break
        self.presence.take_name(topic, birth)
        until = self._clock() + _ECHO_S
        while not self.presence.echoed:
            if (left := until - self._clock()) <= 0:
                _log.warning(
                    "the broker does not hand back our own birth on %s: does the name fit the certificate?", topic
                )
                break
            self.pump(left)

    def expect(self, device: str, patience_s: float, since: float | None = None) -> Message:
        """Wait for the next message from ``device``; messages from other devices wait for their turn.

        ``since`` is when the waiting began, on our clock; the default is now.

        Raises:
            PeerLost: nothing at all was heard from the peer for ``patience_s``.
            RemoteError: the peer broke the protocol.
            TransportError: the broker refuses us.
        """
        begun = self._clock() if since is None else since
        while (message := self.conversations.poll(device)) is None:
            self._wait_for(device, begun, patience_s)
        return message

    def await_room(self, device: str, patience_s: float) -> Message | None:
        """Wait until at most a window of what was sent is unacknowledged, so that the sender is never far ahead.

        Returns a message from the peer if one arrives meanwhile.

        Raises:
            PeerLost: nothing at all was heard from the peer for ``patience_s``.
        """
        begun = self._clock()
        while (message := self.conversations.poll(device)) is None and self.conversations.is_far_ahead(device):
            self._wait_for(device, begun, patience_s)
        return message

    def await_broadcast(self, number: int, patience_s: float) -> Message | None:
        """Wait for the message to all with this number; None if it does not arrive within ``patience_s``."""
        until = self._clock() + patience_s
        while (message := self.broadcasts.take(number)) is None and (left := until - self._clock()) > 0:
            self.pump(left)
        return message

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything sent is acknowledged, or nothing arrives for ``timeout_s``; returns whether all was.

        Whatever arrives, the wait is at most ten times as long.
        """
        now = self._clock()
        deadline, last = now + timeout_s, now + 10 * timeout_s
        while not self.conversations.idle:
            if (left := min(deadline, last) - self._clock()) <= 0:
                return False
            if self.pump(left):
                deadline = self._clock() + timeout_s
        return True

    def pump(self, timeout_s: float) -> bool:
        """Take packets until one completes a message, waiting up to ``timeout_s`` for the first; publish what is due.

        With a thousand devices, it must not look at every device for every packet. Returns whether there was a packet.
        """
        # Below 1 s, so that Ctrl-C is obeyed; above 1 ms, lest a deadline of now, rounded, make a busy loop.
        pause = min(timeout_s, max(self.conversations.due - self._clock(), 0.001), 0.5)
        taken, complete = 0, False
        while not complete and taken < _MOST_AT_ONCE and (packet := self.transport.receive(pause)) is not None:
            complete = self._take(packet)
            taken, pause = taken + 1, 0.0
        if self.transport.was_replaced():
            self.conversations.reconnected()
        self.conversations.flush_due()
        return taken > 0

    def _wait_for(self, device: str, begun: float, patience_s: float) -> None:
        """Pump once; raise `PeerLost` if the peer has been silent for too long."""
        heard_at = self.conversations.heard_at(device)
        left = (begun if heard_at is None else max(begun, heard_at)) + patience_s - self._clock()
        if not self.pump(max(left, 0.0)) and left <= 0:  # what is here already counts as heard
            peer = device if self._own.role is Role.SERVER else "the server"
            raise PeerLost(f"nothing was heard from {peer} for {patience_s:g} s")

    def _take(self, packet: Packet) -> bool:
        """Take a packet; returns whether it completed a message, or was a birth."""
        device, leaf = topics.parse(packet.topic)
        if leaf in ("state", "control"):
            self._take_presence(device, packet.payload)
            return True
        if leaf == "gradient":
            self.broadcasts.overhear(packet)
            return False
        return self.conversations.take(device, packet)

    def _take_presence(self, sender: str, payload: bytes) -> None:
        try:
            header = decode(payload).header
        except MessageError as error:
            _log.warning("dropped the presence of %r: %s", sender, error)
            return
        if not isinstance(header, Presence) or (header.trial, header.device) != (self._own.trial, sender):
            _log.warning("dropped a message on the state topic of %r that is not its presence", sender)
        elif sender == self.presence.name:
            self.presence.hear(header)
        elif self._own.role is Role.SERVER or sender == topics.SERVER:  # some brokers deliver more than was asked for
            if header.online:  # the peer may have a new connection
                self.conversations.reconnected(sender)
            self._on_presence(header)
