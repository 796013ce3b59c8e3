"""The devices of a trial, as the server knows them."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from typing import TypeVar

import msgspec

from cutlayer_core.codecs import Payload
from cutlayer_core.errors import CutlayerError, PeerLost, PeerStartedAnew, RemoteError
from cutlayer_core.trial.trial import Trial
from cutlayer_core.wire import topics
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import Assignment, End, Header, Message, Position, Presence
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.transports import Transport

__all__ = ["Fleet", "assignment_of"]

_T = TypeVar("_T")
_MAX_REFUSED = 64
_log = logging.getLogger(__name__)


class _Phase(Enum):
    GATHERING = "devices may join, leave and start anew"
    TRAINING = "devices may only come back"
    DISMISSED = "devices were told to leave"


class Fleet:
    """Which devices are there, and the conversations with them.

    A device that goes offline may come back within the trial's patience; whoever waits for it longer gets `PeerLost`.
    If it comes back as another process in the middle of the training, whatever is going on gets `PeerStartedAnew`.
    Only births that answer this server count: what a device told an earlier one means nothing.

    While more than the trial's ``min_devices`` are there, one can be spared: it is `released` when it is lost or starts
    anew, and `taken in` again between two rounds.

    Args:
        trial: names the devices and says what they must obey.
        fingerprint: of the client-side model; a device with another one is refused.
        birth: the server's own presence.
        transport: connected, with the last will that belongs to ``birth``.
        quarantined: devices that have to stay away, and why.
        earlier: number of the birth of this run's server before this one.
    """

    def __init__(
        self,
        trial: Trial,
        fingerprint: str,
        birth: Presence,
        transport: Transport,
        quarantined: Mapping[str, str],
        earlier: int = 0,
    ) -> None:
        self._earlier = earlier
        self._trial, self._fingerprint, self._birth, self._transport = trial, fingerprint, birth, transport
        self._quarantined = quarantined
        self.devices = [name for name in trial.devices if name not in quarantined]
        """Those that take part, in the trial's order."""
        self.listed = tuple(self.devices)
        """Those that may take part."""
        self._least = min(trial.min_devices or len(self.listed), len(self.listed))
        self._joining: dict[str, Presence] = {}
        self.endpoint = Endpoint(Role.SERVER, trial.name, transport, birth.epoch, self._meet)
        self._admitted: dict[str, Presence] = {}
        self._online: set[str] = set()
        self._refused: set[str] = set()
        self._phase = _Phase.GATHERING

    def gather(self, report: Callable[[list[str]], None]) -> dict[str, Presence]:
        """Wait for the devices of the trial; returns the births of those that are there, in the trial's order.

        Once as many as the trial needs are there, the others are waited for as long as its patience.
        ``report`` is called with the names still missing, whenever that changes.

        Raises:
            PeerLost: another server leads a trial of this name.
        """
        self.endpoint.claim(topics.control(self._trial.name), self._birth, earlier=self._earlier)
        self._transport.subscribe(topics.every_up(self._trial.name))
        self._transport.subscribe(topics.every_state(self._trial.name))
        reported: list[str] | None = None
        enough_since = float("inf")
        while True:
            missing = [name for name in self.listed if name not in self._online]
            if missing != reported:
                report(missing)
                reported = missing
            enough = len(self.listed) - len(missing) >= self._least
            enough_since = min(enough_since, time.monotonic()) if enough else float("inf")
            if not missing or time.monotonic() > enough_since + self._trial.patience_s:
                break
            self._serve_on(lambda: self.endpoint.pump(1.0))
        for name in missing:
            self._admitted.pop(name, None)
            self.endpoint.conversations.close(name)
        self.devices = [name for name in self.listed if name not in missing]
        self._phase = _Phase.TRAINING
        return {name: self._admitted[name] for name in self.devices}

    @property
    def missing(self) -> tuple[str, ...]:
        """Those that may take part and do not."""
        return tuple(name for name in self.listed if name not in self.devices)

    @property
    def online(self) -> list[str]:
        """Those that take part and are not known to be gone, in the trial's order."""
        return [name for name in self.devices if name in self._online]

    def assign(self, run: int, positions: Mapping[str, Position]) -> None:
        """Tell every device what to obey, and from which of its states to go on."""
        self._birth = msgspec.structs.replace(self._birth, run=run)
        for name in self.devices:
            self.say(name, assignment_of(self._trial, name, run, positions.get(name)))

    def take_in(self, samples: Mapping[str, int]) -> dict[str, Presence]:
        """Let those take part that came since the training began; returns their births.

        Those that were released and did not come are told so again: they may wait for us, idle.

        Args:
            samples: how many each device had that took part before; who has others now is refused.
        """
        for name in self.missing:
            self.endpoint.conversations.reset(name)
        self._catch_up()
        taken, self._joining = self._joining, {}
        for name, presence in list(taken.items()):
            if name in self.devices:
                self.release(name)
            if samples.get(name, presence.samples) != presence.samples:
                self._refuse(
                    presence, f"it has {presence.samples} samples, it had {samples[name]}: give it the same --data"
                )
                del taken[name]
                continue
            self._admitted[name] = presence
            self._online.add(name)
            self.devices = [each for each in self.listed if each in self.devices or each == name]
            self.endpoint.conversations.open(name, presence.epoch)
            self.say(name, assignment_of(self._trial, name, self._birth.run))
        return taken

    def _catch_up(self) -> None:
        """Hear of those who came while nobody was listening, as in a long evaluation."""
        for _ in range(len(self.missing)):
            with suppress(_CameAnew):
                if not self._serve_on(lambda: self.endpoint.pump(0.0)):
                    return

    def can_spare(self, device: str) -> bool:
        """Whether the training goes on without this device."""
        return device in self.devices and len(self.devices) > self._least

    def release(self, device: str) -> None:
        """Go on without a device; if this process of it speaks again, it is told to join anew."""
        self.devices.remove(device)
        self._online.discard(device)
        self.endpoint.conversations.give_up(device, self._admitted.pop(device).epoch)

    def say(self, device: str, header: Header, payload: Payload = b"") -> None:
        """Send a message to a device."""
        self.endpoint.conversations.send(device, header, payload)

    def hear(self, device: str, since: float | None = None) -> Message:
        """The next message of a device.

        Args:
            device: who takes part.
            since: when the waiting began, as `time.monotonic` says; without it, now.

        Raises:
            PeerLost: it is gone or silent for longer than the patience, or started anew and can be spared.
            PeerStartedAnew: a device started anew and cannot be spared.
        """
        patience_s, message = self._trial.patience_s, None
        while message is None:
            if device in self._joining:  # another may have been lost since it came, so that it is needed now
                raise (PeerLost if self.can_spare(device) else PeerStartedAnew)(f"{device} started anew")
            try:
                message = self._serve_on(lambda: self.endpoint.expect(device, patience_s, since))
            except _CameAnew:
                continue
            except PeerLost as error:
                if device in self._online:
                    raise
                patience = f"did not come back within {patience_s:g} s"
                raise PeerLost(f"{device} is gone: it was killed, or lost power or network, and {patience}") from error
        return message

    def dismiss(self, reason: str, ok: bool) -> None:
        """End the trial for every device that is still there, and say goodbye."""
        self._phase = _Phase.DISMISSED
        for device, presence in self._joining.items():
            self.endpoint.conversations.open(device, presence.epoch)
            self._online.add(device)
        for device in self._admitted | self._joining:
            if device in self._online:
                self.say(device, End(reason=reason, ok=ok))
            else:
                self.endpoint.conversations.close(device)
        try:
            if not self.endpoint.drain(timeout_s=3.0):
                _log.warning("not every device confirmed the end of the trial")
        except CutlayerError as error:
            _log.warning("while ending the trial: %s", error)
        self._birth = msgspec.structs.replace(self._birth, over=reason if ok else "")
        self.leave()

    def expel(self, device: str, reason: str) -> None:
        """Send one device away, and `leave` the others."""
        self._phase = _Phase.DISMISSED
        with suppress(KeyError, CutlayerError):  # it may be gone, or talk nonsense on
            self.say(device, End(reason=reason, ok=False))
            self.endpoint.drain(timeout_s=1.0)
        self.leave()

    def leave(self) -> None:
        """Go without a word: devices wait for the next server, and answer it anew."""
        self.endpoint.presence.leave(self._birth)

    def _serve_on(self, wait: Callable[[], _T]) -> _T | None:
        """Do not let one who was refused disturb those who take part; None if one tried.

        Raises:
            RemoteError: one who takes part does not keep to the protocol.
        """
        try:
            return wait()
        except RemoteError as error:
            if error.device in self.devices:
                raise
            _log.warning("no longer listening to %s", error)
            self.endpoint.conversations.close(error.device)
            return None

    def _meet(self, presence: Presence) -> None:
        name, admitted = presence.device, self._admitted.get(presence.device)
        if self._phase is _Phase.DISMISSED:
            return  # who leaves now was told to
        if admitted is not None and admitted.epoch == presence.epoch:
            self._move(name, presence.online)
        elif self.endpoint.conversations.has_given_up(name, presence.epoch):
            if presence.online:
                self.endpoint.conversations.reset(name)
        elif name in self._joining and self._joining[name].epoch == presence.epoch and not presence.online:
            del self._joining[name]
        elif presence.online and presence.server == self._birth.epoch:  # not said to another server
            self._meet_new(presence)

    def _meet_new(self, presence: Presence) -> None:
        """Another process than the one that takes part, if one does."""
        name = presence.device
        if name not in self._trial.devices:
            self._refuse(presence, f"the trial lists {', '.join(self._trial.devices)} and no {name!r}: give it --name")
        elif name in self._quarantined:
            self._refuse(presence, f"it is left out of this run: {self._quarantined[name]}")
        elif presence.bundle != self._fingerprint:
            self._refuse(
                presence, "its bundle is of another model, data or optimizer than the trial file: export again"
            )
        elif self._phase is _Phase.TRAINING:
            self._meet_later(presence)
        else:
            self._admitted[name] = presence
            self._online.add(name)
            self.endpoint.conversations.open(name, presence.epoch)

    def _meet_later(self, presence: Presence) -> None:
        """A device comes while the training goes on."""
        name = presence.device
        if name in self.devices and not self.can_spare(name):
            raise PeerStartedAnew(f"{name} started anew")
        known = self._joining.get(name)
        self._joining[name] = presence
        if known is None:
            _log.warning("%s is here, and takes part from the next round on", name)
        if name in self.devices:
            raise _CameAnew

    def _move(self, name: str, online: bool) -> None:
        if online and name not in self._online:
            self._online.add(name)
            _log.warning("%s is back", name)
        elif not online and name in self._online:
            self._online.remove(name)
            _log.warning("%s went offline: it was killed, or lost power or network", name)

    def _refuse(self, presence: Presence, reason: str) -> None:
        """Tell a device that it cannot take part; of very many strangers, only the first are answered."""
        name = presence.device
        if len(self._refused) < _MAX_REFUSED:
            self._refused.add(name)
            _log.warning("refused %s: %s", name, reason)
            self.endpoint.conversations.open(name, presence.epoch)
            self.say(name, End(reason=f"{name} was refused: {reason}", ok=False))


class _CameAnew(Exception):
    """A device that takes part is another process now, and can be spared, so what is waited for may have changed."""


def assignment_of(trial: Trial, device: str, run: int = 0, restore: Position | None = None) -> Assignment:
    """What a device of the trial must obey."""
    return Assignment(
        run=run,
        restore=restore,
        client=trial.devices.index(device),
        seed=trial.seeds.data,
        batch_size=trial.data.batch_size,
        learning_rate=trial.optimizer.client.learning_rate,
        codecs=trial.codec,
        augmentation=trial.data.augmentation,
        patience_s=trial.patience_s,
        rejoins=0 < trial.min_devices < len(trial.devices),
    )
