"""Which devices are lost, and which join, during training."""

from collections.abc import Callable

from cutlayer_core.errors import PeerLost
from cutlayer_core.record.events import Joined, Missed
from cutlayer_core.record.record import Record
from cutlayer_core.wire.messages import Header, Lacking, Message
from cutlayer_server.fleet.fleet import Fleet
from cutlayer_server.training.state import TrainingState
from cutlayer_server.training.step import TrainingStep
from cutlayer_server.training.usage_reports import ask, note

__all__ = ["Attendance"]


class Attendance:
    """Listens to devices, and goes on without those that are lost and can be spared.

    Invariant: a lost device is released, forgotten and recorded before anything else happens.

    Args:
        fleet: the devices of the trial.
        record: where losses and arrivals are written.
        state: of the training.
        step: repeats a message to all that a device lacks.
        forget: called with the name of a device whose next process starts its pass over.
    """

    def __init__(
        self,
        fleet: Fleet,
        record: Record,
        state: TrainingState,
        step: TrainingStep,
        forget: Callable[[str], None],
    ) -> None:
        self._fleet, self._record, self._state, self._step, self._forget = fleet, record, state, step, forget

    def hear(self, device: str, since: float) -> Message | None:
        """The next message from a device; None if it was lost and the others go on. Raises as `Fleet.hear`."""
        try:
            message = self._fleet.hear(device, since)
            while isinstance(message.header, Lacking):
                self._step.repeat(device, message.header)
                message = self._fleet.hear(device, since)
        except PeerLost as error:
            if not self._fleet.roll.can_spare(device):
                raise
            self._fleet.release(device)
            self._forget(device)
            now, epoch = self._record.now(), self._state.progress.epoch
            self._record.write(Missed(time_s=now, epoch=epoch, device=device, reason=str(error)))
            return None
        return message

    def tell(self, device: str, header: Header) -> None:
        """Send a device a message without a payload."""
        self._fleet.say(device, header)

    def rest(self, idle_s: float) -> None:
        """Have the devices idle for ``idle_s``, and record what they drew. Raises as `hear`."""
        rested = ask(self._fleet, self._fleet.roll.devices, idle_s)
        for device in list(self._fleet.roll.devices):
            if (message := self.hear(device, rested)) is not None:
                note(self._record, device, message)

    def take_in(self, epoch: int) -> None:
        """Let the devices that came since training began take part from this epoch on."""
        samples = self._state.samples
        for name, birth in self._fleet.take_in(samples).items():
            self._forget(name)
            samples[name] = birth.samples
            self._record.write(Joined(time_s=self._record.now(), epoch=epoch, device=name, samples=birth.samples))
