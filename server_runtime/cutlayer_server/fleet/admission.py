"""How births and wills are handled: who is admitted, refused, back, gone, or has started anew."""

import logging
from collections.abc import Mapping
from enum import Enum

from cutlayer_core.errors import PeerStartedAnew
from cutlayer_core.trial.trial import Trial
from cutlayer_core.wire.conversations import Conversations
from cutlayer_core.wire.messages import End, Presence
from cutlayer_server.fleet.roll import Roll

__all__ = ["Admission", "Phase", "StartedAnew"]

_MAX_REFUSED = 64
_log = logging.getLogger(__name__)


class Phase(Enum):
    """How far the trial has come."""

    GATHERING = "devices may join, leave and start anew"
    TRAINING = "devices may only come back"
    DISMISSED = "devices were told to leave"


class StartedAnew(Exception):
    """A device that takes part is another process now, and training can go on without it."""


class Admission:
    """Keeps the roll up to date with what devices announce.

    Only births that answer this server count; what a device told an earlier server means nothing. If very many
    strangers are refused, only the first are told.

    Args:
        trial: names the devices.
        fingerprint: of the client-side model; a device with another one is refused.
        quarantined: devices that have to stay away, and why.
        roll: kept up to date.
        conversations: opened with those who are admitted or refused.
        server_epoch: number of this server's birth.
    """

    def __init__(
        self,
        trial: Trial,
        fingerprint: str,
        quarantined: Mapping[str, str],
        roll: Roll,
        conversations: Conversations,
        server_epoch: int,
    ) -> None:
        self._trial, self._fingerprint, self._quarantined = trial, fingerprint, quarantined
        self._roll, self._conversations, self._server_epoch = roll, conversations, server_epoch
        self._refused: set[str] = set()
        self.phase = Phase.GATHERING

    def meet(self, presence: Presence) -> None:
        """Take a birth or a will.

        Raises:
            PeerStartedAnew: a device that cannot be spared is another process now.
            StartedAnew: one that can be spared is.
        """
        name, admitted = presence.device, self._roll.admitted(presence.device)
        joining = self._roll.joining.get(name)
        if self.phase is Phase.DISMISSED:
            return  # whoever leaves now was told to
        if admitted is not None and admitted.epoch == presence.epoch:
            self._move(presence)
        elif self._conversations.has_given_up(name, presence.epoch):
            if presence.online:
                self._conversations.reset(name)
        elif joining is not None and joining.epoch == presence.epoch and not presence.online:
            del self._roll.joining[name]
        elif presence.online and presence.server == self._server_epoch:  # not meant for another server
            self._meet_new(presence)

    def admit(self, birth: Presence) -> None:
        """Let this process of a device take part, and begin a conversation with it."""
        self._roll.admit(birth)
        self._conversations.open(birth.device, birth.epoch)

    def refuse(self, birth: Presence, reason: str) -> None:
        """Tell a device that it cannot take part."""
        name = birth.device
        if len(self._refused) < _MAX_REFUSED:
            self._refused.add(name)
            _log.warning("refused %s: %s", name, reason)
            self._conversations.open(name, birth.epoch)
            self._conversations.send(name, End(reason=f"{name} was refused: {reason}", ok=False))

    def _meet_new(self, birth: Presence) -> None:
        """Handle a birth from another process than the one that takes part, if any does."""
        if problem := self._problem(birth):
            self.refuse(birth, problem)
        elif self.phase is Phase.TRAINING:
            self._meet_later(birth)
        else:
            self.admit(birth)

    def _problem(self, birth: Presence) -> str:
        name = birth.device
        if name not in self._trial.devices:
            return f"the trial lists {', '.join(self._trial.devices)} and no {name!r}: give it --name"
        if name in self._quarantined:
            return f"it is left out of this run: {self._quarantined[name]}"
        if birth.bundle != self._fingerprint:
            return "its bundle is of another model, data or optimizer than the trial file: export again"
        return ""

    def _meet_later(self, birth: Presence) -> None:
        """Handle a device that comes during training."""
        name = birth.device
        takes_part = name in self._roll.devices
        if takes_part and not self._roll.can_spare(name):
            raise PeerStartedAnew(f"{name} started anew")
        known = name in self._roll.joining
        self._roll.joining[name] = birth
        if not known:
            _log.warning("%s is here, and takes part from the next round on", name)
        if takes_part:
            raise StartedAnew

    def _move(self, presence: Presence) -> None:
        if not self._roll.move(presence.device, online=presence.online):
            return
        what = "is back" if presence.online else "went offline: it was killed, or lost power or network"
        _log.warning("%s %s", presence.device, what)
