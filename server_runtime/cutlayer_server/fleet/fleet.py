"""The devices of a trial, as the server knows them."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec

from cutlayer_core.codecs import Payload
from cutlayer_core.errors import CutlayerError
from cutlayer_core.trial.trial import Trial
from cutlayer_core.wire import topics
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import Assignment, End, Header, Message, Position, Presence
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.transports import Transport
from cutlayer_server.fleet.admission import Admission, Phase
from cutlayer_server.fleet.hearing import Hearing
from cutlayer_server.fleet.roll import Roll

__all__ = ["Fleet", "assignment_of"]

_log = logging.getLogger(__name__)


class Fleet:
    """Gathers the devices of a trial, talks to them, and dismisses them.

    A device that goes offline may come back within the trial's patience; after that, waiting for it raises `PeerLost`.
    If it comes back as another process during training, whatever is going on raises `PeerStartedAnew`.

    While more than the trial's ``min_devices`` are there, a device can be spared: it is `released` when it is lost or
    starts anew, and `taken in` again between two rounds.

    Args:
        trial: names the devices and says what they must obey.
        fingerprint: of the client-side model; a device with another one is refused.
        birth: the server's own presence.
        transport: connected, with the last will that belongs to ``birth``.
        quarantined: devices that have to stay away, and why.
        earlier: number of the previous birth of this run's server.

    Attributes:
        roll: who is there.
        endpoint: the server's.
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
        self._trial, self._birth, self._transport, self._earlier = trial, birth, transport, earlier
        listed = [name for name in trial.devices if name not in quarantined]
        self.roll = Roll(listed, min(trial.min_devices or len(listed), len(listed)))
        self.endpoint = Endpoint(Role.SERVER, trial.name, transport, birth.epoch, self._meet)
        self._admission = Admission(
            trial, fingerprint, quarantined, self.roll, self.endpoint.conversations, birth.epoch
        )
        self._hearing = Hearing(self.endpoint, self.roll, trial.patience_s)

    def gather(self, report: Callable[[list[str]], None]) -> dict[str, Presence]:
        """Wait for the devices of the trial; returns the births of those that are there, in the trial's order.

        Once as many as the trial needs are there, it waits for the others for as long as the trial's patience.
        ``report`` is called with the names still missing, whenever that changes.

        Raises:
            PeerLost: another server leads a trial of this name.
        """
        self.endpoint.claim(topics.control(self._trial.name), self._birth, earlier=self._earlier)
        self._transport.subscribe(topics.every_up(self._trial.name))
        self._transport.subscribe(topics.every_state(self._trial.name))
        missing = self._await_enough(report)
        self.roll.strike_off(missing)
        for name in missing:
            self.endpoint.conversations.close(name)
        self._admission.phase = Phase.TRAINING
        births = {name: self.roll.admitted(name) for name in self.roll.devices}
        return {name: birth for name, birth in births.items() if birth is not None}

    def _await_enough(self, report: Callable[[list[str]], None]) -> list[str]:
        """Wait for enough devices; returns the names of those that are no longer waited for."""
        reported: list[str] | None = None
        enough_since = float("inf")
        while True:
            missing = [name for name in self.roll.listed if not self.roll.is_online(name)]
            if missing != reported:
                report(missing)
                reported = missing
            enough_since = min(enough_since, time.monotonic()) if self.roll.is_enough else float("inf")
            if not missing or time.monotonic() > enough_since + self._trial.patience_s:
                return missing
            self._hearing.pump(1.0)

    def assign(self, run: int, positions: Mapping[str, Position]) -> None:
        """Tell every device its assignment, and from which of its states to resume."""
        self._birth = msgspec.structs.replace(self._birth, run=run)
        for name in self.roll.devices:
            self.say(name, assignment_of(self._trial, name, run, positions.get(name)))

    def take_in(self, samples: Mapping[str, int]) -> dict[str, Presence]:
        """Let the devices take part that came since training began; returns their births.

        Devices that were released and have not come are told so again, since they may be waiting for us, idle.

        Args:
            samples: how many each device had when it took part before; one that now has another number is refused.
        """
        for name in self.roll.missing:
            self.endpoint.conversations.reset(name)
        self._hearing.catch_up()
        came, self.roll.joining = self.roll.joining, {}
        return {name: birth for name, birth in came.items() if self._joins(birth, samples)}

    def _joins(self, birth: Presence, samples: Mapping[str, int]) -> bool:
        """Admit or refuse a device that came; returns whether it takes part from now on."""
        name = birth.device
        if name in self.roll.devices:
            self.release(name)
        if (before := samples.get(name, birth.samples)) != birth.samples:
            self._admission.refuse(birth, f"it has {birth.samples} samples, it had {before}: give it the same --data")
            return False
        self._admission.admit(birth)
        self.say(name, assignment_of(self._trial, name, self._birth.run))
        return True

    def release(self, device: str) -> None:
        """Go on without a device; if this process of it speaks again, it is told to join anew."""
        self.endpoint.conversations.give_up(device, self.roll.release(device).epoch)

    def say(self, device: str, header: Header, payload: Payload = b"") -> None:
        """Send a message to a device."""
        self.endpoint.conversations.send(device, header, payload)

    def hear(self, device: str, since: float | None = None) -> Message:
        """The next message from a device. Arguments and errors are those of `Hearing.next_message`."""
        return self._hearing.next_message(device, since)

    def dismiss(self, reason: str, ok: bool) -> None:
        """End the trial for every device that is still there, and say goodbye."""
        self._admission.phase = Phase.DISMISSED
        for birth in self.roll.joining.values():
            self.endpoint.conversations.open(birth.device, birth.epoch)
        for device in self.roll.known:
            if device in self.roll.joining or self.roll.is_online(device):
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
        self._admission.phase = Phase.DISMISSED
        with suppress(KeyError, CutlayerError):  # it may be gone, or still talk nonsense
            self.say(device, End(reason=reason, ok=False))
            self.endpoint.drain(timeout_s=1.0)
        self.leave()

    def _meet(self, presence: Presence) -> None:
        self._admission.meet(presence)

    def leave(self) -> None:
        """Leave without dismissing anyone: devices wait for the next server, and answer it anew."""
        self.endpoint.presence.leave(self._birth)


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
