"""The devices of a trial, as the server knows them."""

import logging
from collections.abc import Callable
from enum import Enum

from cutlayer import topics
from cutlayer.codecs import Payload
from cutlayer.endpoint import Endpoint, will_of
from cutlayer.errors import CutlayerError, PeerLost
from cutlayer.messages import Assignment, End, Header, Message, Presence, encode
from cutlayer.session import Role
from cutlayer.transports import Transport
from cutlayer.trial import Trial

__all__ = ["Fleet"]

_log = logging.getLogger(__name__)


class _Phase(Enum):
    GATHERING = "devices may join, leave and restart"
    TRAINING = "every device must stay"
    DISMISSED = "devices were told to leave"


class Fleet:
    """Which devices are there, and the conversations with them.

    Invariant: once the fleet is complete, a device that leaves or restarts raises `PeerLost` in whatever call is
    being waited in; nobody trains on with a device missing.

    Args:
        trial: names the devices and says what they must obey.
        fingerprint: of the client-side model; a device with another one is refused.
        birth: the server's own presence.
        transport: connected, with the last will that belongs to ``birth``.
    """

    def __init__(self, trial: Trial, fingerprint: str, birth: Presence, transport: Transport) -> None:
        self._trial, self._fingerprint, self._birth, self._transport = trial, fingerprint, birth, transport
        self.endpoint = Endpoint(Role.SERVER, trial.name, transport, birth.epoch, self._meet)
        self._present: dict[str, Presence] = {}
        self._phase = _Phase.GATHERING

    def gather(self, report: Callable[[list[str]], None]) -> dict[str, int]:
        """Wait until every device of the trial has joined; returns the samples of each, in the trial's order.

        ``report`` is called with the names still missing, whenever that changes.
        """
        self._transport.subscribe(topics.every_up(self._trial.name))
        self._transport.subscribe(topics.every_state(self._trial.name))
        self._transport.publish_retained(topics.control(self._trial.name), encode(Message(self._birth)))
        reported: list[str] | None = None
        while True:
            missing = [name for name in self._trial.devices if name not in self._present]
            if missing != reported:
                report(missing)
                reported = missing
            if not missing:
                self._phase = _Phase.TRAINING
                return {name: self._present[name].samples for name in self._trial.devices}
            self.endpoint.pump(1.0)

    def say(self, device: str, header: Header, payload: Payload = b"") -> None:
        """Send a message to a device."""
        self.endpoint.send(device, header, payload)

    def hear(self, device: str) -> Message:
        """The next message of a device. Raises `PeerLost` if any device is gone, or this one silent for too long."""
        return self.endpoint.expect(device, self._trial.patience_s)

    def dismiss(self, reason: str, ok: bool) -> None:
        """End the trial for every device that is still there, and say goodbye."""
        self._phase = _Phase.DISMISSED
        for device in self._present:
            self.say(device, End(reason=reason, ok=ok))
        try:
            if not self.endpoint.drain(timeout_s=3.0):
                _log.warning("not every device confirmed the end of the trial")
        except CutlayerError as error:
            _log.warning("while ending the trial: %s", error)
        self._transport.publish_retained(*will_of(topics.control(self._trial.name), self._birth))

    def _meet(self, presence: Presence) -> None:
        name, known = presence.device, self._present.get(presence.device)
        if self._phase is _Phase.DISMISSED:
            return  # who leaves now was told to
        if name not in self._trial.devices:
            if presence.online:
                _log.warning("ignored %r, which the trial file does not list under devices", name)
        elif not presence.online:
            if known is not None and known.epoch == presence.epoch:
                self._lose(name, "it was killed, or lost power or network")
        elif known is None:
            self._admit(presence)
        elif known.epoch != presence.epoch:
            self._lose(name, "it started anew")
            self._admit(presence)

    def _admit(self, presence: Presence) -> None:
        name = presence.device
        self.endpoint.open(name)
        if presence.bundle != self._fingerprint:
            reason = "its bundle is of another model, cut or optimizer than the trial file: export it again"
            _log.warning("refused %s: %s", name, reason)
            self.say(name, End(reason=f"{name} was refused: {reason}", ok=False))
            return
        self._present[name] = presence
        self.say(name, _assignment(self._trial, name))

    def _lose(self, name: str, why: str) -> None:
        del self._present[name]
        self.endpoint.close(name)
        if self._phase is _Phase.TRAINING:
            raise PeerLost(f"{name} is gone: {why}")
        _log.warning("%s left before the trial began: %s", name, why)


def _assignment(trial: Trial, device: str) -> Assignment:
    return Assignment(
        client=trial.devices.index(device),
        seed=trial.seeds.data,
        batch_size=trial.data.batch_size,
        learning_rate=trial.optimizer.client.learning_rate,
        up=trial.codec.up,
        down=trial.codec.down,
        augmentation=trial.data.augmentation,
        patience_s=trial.patience_s,
    )
