"""Which device is next: they take turns, one batch each, and the server answers."""

import time

from cutlayer_core.errors import RemoteError
from cutlayer_core.record.phases import Phases
from cutlayer_core.schedules import Mode
from cutlayer_core.wire.messages import Message, Position
from cutlayer_server.fleet.fleet import Fleet
from cutlayer_server.model.averaging import Arrays
from cutlayer_server.training.attendance import Attendance
from cutlayer_server.training.epoch_totals import EpochTotals
from cutlayer_server.training.keeping import Keeping
from cutlayer_server.training.passes import Passes
from cutlayer_server.training.state import TrainingState
from cutlayer_server.training.step import Batch, TrainingStep

__all__ = ["Turns"]


class Turns:
    """Takes batches in the order that the aggregation asks for, so that the result does not depend on devices' speed.

    Args:
        state: of the training.
        fleet: the devices.
        step: trains the server-side model.
        passes: the devices' passes.
        attendance: listens to devices.
        keeping: checkpoints.
        totals: of the present epoch.
        phases: where the time goes.
    """

    def __init__(
        self,
        state: TrainingState,
        fleet: Fleet,
        step: TrainingStep,
        passes: Passes,
        attendance: Attendance,
        keeping: Keeping,
        totals: EpochTotals,
        phases: Phases,
    ) -> None:
        self._state, self._fleet, self._step, self._passes = state, fleet, step, passes
        self._attendance, self._keeping, self._totals, self._phases = attendance, keeping, totals, phases

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that take part, in the trial's order; one that is lost during a turn is no longer among them."""
        return self._state.selection.devices(self._fleet.roll.devices)

    @property
    def passing(self) -> list[str]:
        """Devices that take part and have not finished their pass."""
        return [device for device in self.devices if device not in self._state.progress.returned]

    def begin(self, device: str, weights: Arrays) -> None:
        """Have a device pass over its samples from these client weights, or go on with its pass."""
        if self._state.mode(device) is Mode.FORWARD:
            self._keeping.ask([device])  # while its state does not change, a checkpoint cannot ask for it
            if device not in self.devices:
                return
        self._passes.begin(device, weights)

    def turn(self, devices: list[str]) -> None:
        """Take one batch, or the weights that end a pass, from each device in order; then write a checkpoint, if due.

        Raises:
            PeerLost: a device is gone, and the training cannot go on without it.
            RemoteError: a device sent something that does not fit the model, or ended its pass as it must not.
            OSError: the disk is full.
        """
        # If several are gone, each one's wait counts from here, without the time spent on the others.
        began = time.monotonic()
        due = self._keeping.is_due(began)
        together: list[Batch] = []
        for device in devices:
            message = self._next(device, began)
            if message is None:
                continue
            taken = time.monotonic()
            batch = self._take(device, message)
            if batch is not None and self._step.is_joint:
                together.append(batch)
            elif batch is not None:
                self._train([batch], keep=due)
            began += time.monotonic() - taken
        if together:
            self._train(together, keep=due)
        if due:
            self._checkpoint(devices)

    def _next(self, device: str, since: float) -> Message | None:
        """What comes next in a device's pass; None if it was lost, or its pass was silent and is over."""
        if self._state.mode(device) is Mode.SILENT:
            return self._passes.next_kept(device)
        with self._phases("wait"):
            return self._attendance.hear(device, since)

    def _take(self, device: str, message: Message) -> Batch | None:
        try:
            return self._passes.take(device, message)
        except RemoteError as error:
            error.device = device
            raise

    def _train(self, batches: list[Batch], *, keep: bool) -> None:
        """Update the server-side model, answer, and record the step."""
        for trained in self._step.train(batches, keep=keep):
            batch = trained.batch
            self._state.note_step(batch.device, len(batch.labels))
            if batch.mode is Mode.EXCHANGE:
                position = Position(batch.header.epoch, batch.header.step + 1)
                self._keeping.note_step(batch.device, position, kept=keep)
            self._totals.note(trained)

    def _checkpoint(self, turn: list[str]) -> None:
        """Write a checkpoint: devices in a pass were told to keep their states with the gradient; others are asked."""
        told = [device for device in self.passing if device in turn and self._state.mode(device) is not Mode.SILENT]
        self._keeping.ask([device for device in self._fleet.roll.devices if device not in told])
        self._keeping.write()
