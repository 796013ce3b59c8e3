"""The device's side of the conversation with one process of the server: meeting it, hearing it, leaving it."""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from cutlayer_core.codecs import Payload
from cutlayer_core.errors import CutlayerError, PeerLost, PeerStartedAnew
from cutlayer_core.wire import topics
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import End, Header, Message, Presence
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.transports import Transport
from cutlayer_device.training.states import States

__all__ = ["RunIsOver", "ServerLink", "ServerMoved", "TrialFailed"]

_T = TypeVar("_T")
_FOREVER = float("inf")
_BROADCAST_S = 1.0
"""How long after the message that refers to it a message to all may arrive."""
_log = logging.getLogger(__name__)


class TrialFailed(CutlayerError):
    """The server ended the trial because something went wrong, or refused this device."""


class RunIsOver(Exception):
    """The run to which our states belong has ended."""


class ServerMoved(Exception):
    """The server went offline or came back."""


@dataclass
class _Server:
    epoch: int
    online: bool = True


class ServerLink:
    """Talks to the first process of the server that this device took part with.

    While that process is online, the patience is its own: it may be waiting for another device, and tells us if it
    gives us up. While it is offline, we wait for as long as the trial's patience. What an earlier process left behind
    means nothing.

    Args:
        birth: this device's, a new one for each participation.
        transport: connected, with the last will that belongs to ``birth``.
        states: say which run's states this device holds.
    """

    def __init__(self, birth: Presence, transport: Transport, states: States) -> None:
        self._birth, self._transport, self._states = birth, transport, states
        self._endpoint = Endpoint(Role.DEVICE, birth.trial, transport, birth.epoch, self.meet)
        self._server: _Server | None = None
        self._patience_s, self._rejoins = _FOREVER, False
        self._leaving = False

    def join(self) -> None:
        """Claim our name, and wait until a server that trains is there.

        Raises:
            PeerLost: another process keeps the name.
            RunIsOver: the run of our states has ended.
        """
        trial, device = self._birth.trial, self._birth.device
        earlier = self._states.number(self._birth.epoch)
        self._endpoint.claim(topics.state(trial, device), self._birth, earlier=earlier)
        self._transport.subscribe(topics.down(trial, device))
        self._transport.subscribe(topics.control(trial))
        _log.info("waiting for the server of the trial %r", trial)
        while self._server is None:
            self._endpoint.pump(1.0)

    def obey(self, patience_s: float, *, rejoins: bool) -> None:
        """Set how long to wait for an offline server, and whether this device joins again if it does not come back."""
        self._patience_s, self._rejoins = patience_s, rejoins

    def say(self, header: Header, payload: Payload = b"") -> None:
        """Send the server a message."""
        self._endpoint.conversations.send(self._birth.device, header, payload)

    def hear(self) -> Message:
        """The server's next message.

        Raises:
            PeerLost: it went offline, and does not come back.
            PeerStartedAnew: likewise, in a trial that goes on without this device, which should join again.
            RemoteError: it broke the protocol.
        """
        return self._patiently(lambda patience_s: self._endpoint.expect(self._birth.device, patience_s))

    def await_room(self) -> Message | None:
        """Wait until the network has caught up; returns what the server says meanwhile. Raises as `hear`."""
        return self._patiently(lambda patience_s: self._endpoint.await_room(self._birth.device, patience_s))

    def await_broadcast(self, number: int) -> Message | None:
        """The message to all with this number; None if it is lost. Raises as `hear`."""
        return self._patiently(lambda _: self._endpoint.await_broadcast(number, _BROADCAST_S))

    def listen(self, seconds: float) -> Message | None:
        """Listen to the server for ``seconds``; returns its message, if there is one. Raises as `hear`."""
        with suppress(ServerMoved):  # while we wait for nothing, this changes nothing
            self._endpoint.pump(seconds)
        return self._endpoint.conversations.poll(self._birth.device)

    def end(self, end: End) -> str:
        """Confirm the end of the trial, clear our states, and return the reason. Raises `TrialFailed` if it failed."""
        self._leaving = True
        self._endpoint.drain(timeout_s=2.0)
        if not end.ok:
            raise TrialFailed(end.reason)
        self._states.clear()
        return end.reason

    def leave(self) -> None:
        """Announce that we are no longer online."""
        self._endpoint.presence.leave(self._birth)

    def meet(self, presence: Presence) -> None:
        """Answer a server that is there, and notice when it goes offline or comes back.

        Raises:
            RunIsOver: its farewell ends the run of our states.
            PeerStartedAnew: it is a different process than before.
            ServerMoved: it went offline or came back.
        """
        server = self._server
        ours = presence.run == self._states.run or (server is not None and presence.epoch == server.epoch)
        if presence.over and ours and not self._leaving:
            raise RunIsOver(presence.over)
        if presence.serves:  # it answers queries, and would make us forget our training states
            _log.warning("the server of the trial %r answers queries; waiting for one that trains", self._birth.trial)
        elif self._leaving:
            return
        elif server is None:
            if presence.online:
                self._answer(presence.epoch)
        elif presence.epoch != server.epoch:
            if presence.online:
                raise PeerStartedAnew("the server started anew")
        elif presence.online != server.online:
            server.online = presence.online
            _log.warning("the server is %s", "back" if presence.online else "offline")
            raise ServerMoved

    def _answer(self, epoch: int) -> None:
        """Begin the conversation, and announce it in our birth."""
        self._server = _Server(epoch)
        self._endpoint.conversations.open(self._birth.device, epoch)
        self._endpoint.broadcasts.listen(epoch)
        self._endpoint.presence.announce(msgspec.structs.replace(self._birth, server=epoch))

    def _patiently(self, wait: Callable[[float], _T]) -> _T:
        """Call ``wait`` with how long to wait; again whenever the server went offline or came back."""
        while True:
            online = self._server is not None and self._server.online
            try:
                return wait(_FOREVER if online else self._patience_s)
            except ServerMoved:
                continue
            except PeerLost as error:
                why = "the server left without ending the trial"
                raise (PeerStartedAnew if self._rejoins else PeerLost)(why) from error
