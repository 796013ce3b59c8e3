"""The devices' passes over their samples as the server sees them: begun, taken batch by batch, and ended."""

import msgspec

from cutlayer_core.errors import RemoteError
from cutlayer_core.record.events import ClientPass
from cutlayer_core.record.record import Record
from cutlayer_core.schedules import Mode
from cutlayer_core.wire.messages import Begin, Message, Weights
from cutlayer_server.fleet.fleet import Fleet
from cutlayer_server.model.averaging import Arrays
from cutlayer_server.training.client_copies import ClientCopies
from cutlayer_server.training.silence import SilentPasses
from cutlayer_server.training.state import TrainingState
from cutlayer_server.training.step import Batch, TrainingStep
from cutlayer_server.training.validation import client_weights_of

__all__ = ["Passes"]


class Passes:
    """A device's pass is what it sends or, if its mode is silent, what the server kept of an earlier pass.

    Invariant: a pass has exactly the samples that its device announced, or its end is refused.

    Args:
        fleet: the devices.
        record: where finished passes are written.
        state: of the training.
        step: decodes batches.
        silent: plays passes back, and records them if the schedule will need them.
        silences: whether the schedule has silent epochs.
    """

    def __init__(
        self,
        fleet: Fleet,
        record: Record,
        state: TrainingState,
        step: TrainingStep,
        silent: SilentPasses,
        *,
        silences: bool,
    ) -> None:
        self._fleet, self._record, self._state, self._step = fleet, record, state, step
        self._silent, self._silences = silent, silences
        self._copies = ClientCopies()

    def begin(self, device: str, weights: Arrays) -> None:
        """Have a device pass over its samples from these client weights, or go on with its pass.

        A device that resumes after some optimizer steps has its weights from its own state.
        """
        mode, progress = self._state.mode(device), self._state.progress
        steps = progress.steps[device]
        if mode is Mode.SILENT:
            self._silent.play(device, self._state.history.kept[device], steps)
            return
        if mode is Mode.FORWARD and self._silences:
            self._silent.buffer.begin(device, progress.epoch, steps)
        payload = self._copies.hand_over(device, weights, has_them=mode is Mode.EXCHANGE and steps > 0)
        self._fleet.say(device, Begin(epoch=progress.epoch, mode=mode, steps=steps), payload)

    def next_kept(self, device: str) -> Message | None:
        """The next batch of a silent pass; None if it is over."""
        message = self._silent.next_message(device)
        if message is None:
            self._state.progress.returned[device] = self._begun_with(device)
        return message

    def take(self, device: str, message: Message) -> Batch | None:
        """Take a message: a batch, decoded; None if the pass is over. Raises `RemoteError` if it cannot be accepted."""
        mode = self._state.mode(device)
        if isinstance(message.header, Weights):
            self._end(device, message)
            return None
        batch = self._step.decode(device, mode, message)
        announced = self._state.samples[device]
        if self._state.progress.samples[device] + len(batch.labels) > announced:
            raise RemoteError(f"{device} sent more than the {announced} samples that it announced")
        if mode is Mode.FORWARD and self._silences:
            self._silent.buffer.add(device, message)
        if mode is Mode.SILENT:  # it was kept under another epoch's number
            header = msgspec.structs.replace(batch.header, epoch=self._state.progress.epoch)
            return batch._replace(header=header)
        return batch

    def forget(self, device: str) -> None:
        """Forget a device's pass: its next process starts over."""
        self._copies.forget(device)
        self._silent.buffer.end(device)

    def _end(self, device: str, message: Message) -> None:
        """End a pass. Raises `RemoteError` if it cannot end like this."""
        exchanged = self._state.mode(device) is Mode.EXCHANGE
        weights = client_weights_of(device, message, self._begun_with(device), changed=exchanged)
        header = message.header
        assert isinstance(header, Weights)
        progress, announced = self._state.progress, self._state.samples[device]
        if progress.samples[device] != announced:
            raise RemoteError(
                f"{device} ended its pass after {progress.samples[device]} of the {announced} samples that it announced"
            )
        progress.returned[device] = weights
        self._copies.return_from(device, weights)
        if not exchanged and self._silences:
            self._silent.buffer.end(device)
            self._state.history.kept[device] = header.epoch
        done = ClientPass(
            time_s=self._record.now(),
            epoch=header.epoch,
            device=device,
            steps=header.steps,
            phases_s=header.phases_s,
            usage=header.usage and header.usage.trusted(),
        )
        self._record.write(done)

    def _begun_with(self, device: str) -> Arrays:
        """The client weights of a pass that does not change them."""
        return self._copies.of(device, self._state.progress.weights.of(device))
