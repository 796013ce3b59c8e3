"""Births and last wills: how a process announces itself, and how it keeps its name to itself."""

import secrets
from typing import NamedTuple

import msgspec

from cutlayer_core.errors import PeerLost
from cutlayer_core.wire.counted_transport import CountedTransport
from cutlayer_core.wire.messages import Message, Presence, encode
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.transports import LastWill

__all__ = ["OwnPresence", "Process", "new_epoch", "will_of"]


class Process(NamedTuple):
    """One process of a trial.

    Attributes:
        role: its side.
        trial: whose topics it uses.
        epoch: its number from `new_epoch`.
    """

    role: Role
    trial: str
    epoch: int


def new_epoch() -> int:
    """A random number that tells this start of a process from every other."""
    return secrets.randbits(63)


def will_of(topic: str, birth: Presence) -> LastWill:
    """The last will that goes with a birth: the same process, no longer online."""
    gone = Presence(trial=birth.trial, device=birth.device, online=False, epoch=birth.epoch)
    return LastWill(topic, encode(Message(gone)))


class OwnPresence:
    """What the broker retains under our name.

    Invariant: from `take_name` to `leave`, it is our birth; another live process under the name is an error.

    Args:
        own: this process.
        transport: connected.
    """

    def __init__(self, own: Process, transport: CountedTransport) -> None:
        self._own, self._transport = own, transport
        self.name = ""
        self._earlier = 0
        self._topic, self._birth = "", b""
        self.rival = False
        """Whether another process is online under our name."""
        self.echoed = False
        """Whether the broker has handed our birth back to us."""

    def watch(self, name: str, topic: str, earlier: int) -> None:
        """Ask the broker who has the name; ``earlier`` is the number of our own birth before this one."""
        self.name, self._earlier = name, earlier
        self._transport.subscribe(topic)

    def take_name(self, topic: str, birth: Presence) -> None:
        """Take the name from now on. Raises `PeerLost` if another process keeps it."""
        if self.rival:
            raise self._taken()
        self._topic = topic
        self.announce(birth)

    def announce(self, birth: Presence) -> None:
        """Publish a new birth under the name taken by `take_name`."""
        self._birth = encode(Message(birth))
        self._retain()

    def leave(self, birth: Presence) -> None:
        """Announce that we are no longer online, unless the name was never ours."""
        if self._topic:
            farewell = msgspec.structs.replace(birth, online=False)
            self._transport.publish_retained(self._topic, encode(Message(farewell)))
            self._topic = ""

    def hear(self, presence: Presence) -> None:
        """Take note of what the broker now has under our name. Raises `PeerLost` if another process came after us."""
        if presence.epoch == self._own.epoch:
            self.echoed = True
            if not presence.online and self._topic:  # our own will, from a connection that was replaced
                self._retain()
            return
        self.rival = presence.online and presence.epoch != self._earlier
        if not self._topic:
            return
        if self.rival:
            raise self._taken()
        self._retain()  # the will of another process with our name replaced our birth

    def _retain(self) -> None:
        self._transport.publish_retained(self._topic, self._birth)

    def _taken(self) -> PeerLost:
        what = "server of this trial" if self._own.role is Role.SERVER else f"device named {self.name!r}"
        return PeerLost(f"there is another {what} on this broker; each needs a name of its own")
