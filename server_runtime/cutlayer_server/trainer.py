"""The server's dealings with the devices in an epoch: begin a pass, answer batches, take weights back, checkpoint."""

import math
import time
from collections.abc import Callable, Iterable

from cutlayer.bundle import Client
from cutlayer.codecs import Payload
from cutlayer.draws import seed_of
from cutlayer.errors import CutlayerError, PeerLost, RemoteError
from cutlayer.events import ClientPass, EpochDone, Joined, Missed, Step
from cutlayer.messages import (
    Begin,
    Gradient,
    Keep,
    Message,
    Position,
    Smashed,
    Weights,
    encode_weights,
)
from cutlayer.phases import Phases
from cutlayer.record import Record
from cutlayer.schedules import Mode
from cutlayer.trial import Trial
from cutlayer_server.checkpoints import Books, Checkpoint, Checkpoints
from cutlayer_server.fleet import Fleet
from cutlayer_server.intake import client_weights_of, smashed_data_of
from cutlayer_server.rounds import Arrays, Round
from cutlayer_server.server_model import Evaluation, ServerModel, StepResult

__all__ = ["Trainer"]


class Trainer:
    """Trains the server-side model with the devices of a fleet, and records what happens.

    Now and then both sides put their state on their disks, at one and the same point of the training, so that after a
    crash of either both go on from there. A device between two passes is asked to; one in a pass is told with the
    gradient. The next checkpoint comes only after every device has spoken again, hence has kept its part of this one.

    Args:
        trial: codecs, batch size, and how often to checkpoint.
        client: what the client-side model is, hence which smashed data and weights are acceptable.
        run: number of the run.
    """

    def __init__(
        self,
        trial: Trial,
        client: Client,
        fleet: Fleet,
        model: ServerModel,
        record: Record,
        checkpoints: Checkpoints,
        run: int,
    ) -> None:
        self.losses: list[float] = []
        """Mean training losses of the epochs that are over."""
        self._trial, self._client, self._fleet, self._model, self._record = trial, client, fleet, model, record
        self._checkpoints, self._run = checkpoints, run
        self._positions: dict[str, Position] = {}
        self._unkept: set[str] = set()
        """Devices whose present state is in their memory only."""
        self._kept_at_s = time.monotonic()
        self._phases = Phases()
        self._round = Round(-1, {})
        self._mode = Mode.EXCHANGE
        self._steps: list[Step] = []
        self._started_s, self._traffic = 0.0, (0, 0)

    @property
    def devices(self) -> tuple[str, ...]:
        """See `Turns`."""
        return tuple(self._fleet.devices)

    def restore(self, checkpoint: Checkpoint) -> Round:
        """Go on as from where the checkpoint was written; returns how far its epoch had got."""
        self._model.restore(checkpoint.model)
        self._kept_at_s = float("-inf")  # however often somebody dies, each life gets further than the one before
        self.losses, self._positions = list(checkpoint.losses), dict(checkpoint.positions)
        self.start(checkpoint.round)
        self._steps = self._record.steps_of(checkpoint.round.epoch)
        books = checkpoint.books
        self._started_s -= books.spent_s
        self._traffic = self._traffic[0] - books.up_bytes, self._traffic[1] - books.down_bytes
        self._phases.add(books.phases_s)
        return checkpoint.round

    def start(self, state: Round) -> None:
        """From now on, turns belong to this epoch."""
        self._round, self._steps = state, []
        self._mode = self._trial.schedule.decide(state.epoch, self.losses)
        self._started_s, self._traffic = self._record.now(), self._traffic_so_far()

    def take_in(self, epoch: int) -> None:
        """Let the devices that came since the training began take part from this epoch on."""
        for name, presence in self._fleet.take_in(self._record.devices).items():
            self._forget(name)
            joined = Joined(time_s=self._record.now(), epoch=epoch, device=name, samples=presence.samples)
            self._record.write(joined)

    def end(self, evaluate: Callable[[], Evaluation]) -> EpochDone:
        """Close the books of the epoch, evaluate, and record both."""
        self._fleet.endpoint.expect_no_answers()  # of ours, for as long as the evaluation takes
        duration_s, (up, down) = self._record.now() - self._started_s, self._traffic_so_far()
        samples = sum(step.samples for step in self._steps)
        test = evaluate()
        if not math.isfinite(test.loss):
            raise CutlayerError(
                f"the test loss after epoch {self._round.epoch + 1} is {test.loss}: lower the learning rates"
            )
        done = EpochDone(
            time_s=self._record.now(),
            epoch=self._round.epoch,
            mode=self._mode.value,
            loss=sum(step.loss * step.samples for step in self._steps) / samples,
            accuracy=sum(step.correct for step in self._steps) / samples,
            test_loss=test.loss,
            test_accuracy=test.accuracy,
            steps=len(self._steps),
            duration_s=duration_s,
            up_bytes=up - self._traffic[0],
            down_bytes=down - self._traffic[1],
            phases_s=self._phases.take(),
            missing=tuple(name for name in self._fleet.listed if name not in self._round.returned),
        )
        self._record.write(done)
        self.losses.append(done.loss)
        return done

    def begin(self, device: str, weights: Arrays) -> None:
        """See `Turns`. A device in the middle of optimizer steps has its weights from its own state."""
        exchanges, steps = self._mode is Mode.EXCHANGE, self._round.steps[device]
        if not exchanges:
            self._keep([device])  # while its state does not change, a checkpoint cannot ask for it
            if device not in self.devices:
                return
        payload = b"" if exchanges and steps else encode_weights(weights)
        self._fleet.say(device, Begin(epoch=self._round.epoch, mode=self._mode, steps=steps), payload)

    def turn(self, devices: list[str]) -> None:
        """See `Turns`. Ends with a checkpoint, if one is due.

        Raises:
            PeerLost: a device is gone, and the training cannot go on without it.
            RemoteError: a device sent what does not fit the model, or ended its pass as it must not.
            OSError: the checkpoint cannot be written.
        """
        # Of several that are gone, each is waited for since then, without what we spent on others.
        began = time.monotonic()
        due = began - self._kept_at_s >= self._trial.checkpoint_s
        for device in devices:
            with self._phases("wait"):
                message = self._hear(device, began)
            if message is None:
                continue
            taken = time.monotonic()
            try:
                if isinstance(message.header, Smashed):
                    self._train(device, message, keep=due)
                else:
                    self._round.returned[device] = self._finish(device, message)
            except RemoteError as error:
                error.device = device
                raise
            began += time.monotonic() - taken
        if due:
            passing = [device for device in devices if device in self.devices and device not in self._round.returned]
            self._keep([device for device in self.devices if device not in passing])
            self.checkpoint()

    def _keep(self, devices: Iterable[str]) -> None:
        """Have these devices, which are between two passes, keep their states."""
        asked = [device for device in devices if device in self._unkept]
        for device in asked:
            self._fleet.say(device, Keep(position=self._positions[device]))
        began = time.monotonic()
        for device in asked:
            self._hear(device, began)
            self._unkept.discard(device)

    def _hear(self, device: str, since: float) -> Message | None:
        """The next message of a device; None if it was lost, and the others go on. Raises as `Fleet.hear`."""
        try:
            return self._fleet.hear(device, since)
        except PeerLost as error:
            if not self._fleet.can_spare(device):
                raise
            self._fleet.release(device)
            self._forget(device)
            now, epoch = self._record.now(), self._round.epoch
            self._record.write(Missed(time_s=now, epoch=epoch, device=device, reason=str(error)))
            return None

    def _forget(self, device: str) -> None:
        """Its next process begins its next pass from the start."""
        self._unkept.discard(device)
        self._positions.pop(device, None)
        self._round.restart(device)

    def checkpoint(self) -> None:
        """Write one of now; every device must have kept its state, or be about to. Raises `OSError`."""
        with self._phases("checkpoint"):
            self._record.sync()
            self._checkpoints.write(self._state())
        self._kept_at_s = time.monotonic()

    def _state(self) -> Checkpoint:
        up, down = self._traffic_so_far()
        books = Books(
            events=self._record.count,
            spent_s=self._record.now() - self._started_s,
            up_bytes=up - self._traffic[0],
            down_bytes=down - self._traffic[1],
            phases_s=self._phases.so_far(),
        )
        return Checkpoint(self._run, self.losses, self._round, self._positions, self._model.state(), books)

    def _train(self, device: str, message: Message, *, keep: bool) -> None:
        """Update the server-side model on one batch, and send the cut gradient if the mode wants it."""
        header = message.header
        assert isinstance(header, Smashed)
        with self._phases("decode"):
            steady = self._mode is not Mode.EXCHANGE
            received, labels = smashed_data_of(
                self._trial, self._client, device, header, message.payload, steady=steady
            )
        try:
            with self._phases("train"):
                result = self._model.step(received.values, labels)
        except RemoteError as error:
            # Whose fault it is shows when the others go on without this device: if theirs is no better, it was nobody's.
            where = f"in step {header.step} of epoch {header.epoch + 1}"
            raise RemoteError(
                f"{device}: {where} {error}; if it is no other's fault, lower the learning rates"
            ) from error
        self._round.steps[device] += 1
        self._round.samples[device] += len(labels)
        payload: Payload = b""
        if self._mode is Mode.EXCHANGE:
            with self._phases("encode"):
                seed = seed_of(self._trial.seeds.data, self._trial.devices.index(device), header.epoch, header.step, 2)
                sent = self._trial.codec.encode_gradient(result.gradient, received, seed)
                payload = sent.payload
            with self._phases("send"):
                spent_s = max(self._fleet.endpoint.waited_s(device), 0.0)
                reply = Gradient(
                    epoch=header.epoch,
                    step=header.step,
                    tensor=sent.tensor,
                    loss=result.loss,
                    spent_s=spent_s,
                    keep=keep,
                )
                self._fleet.say(device, reply, payload)
            self._positions[device] = Position(header.epoch, header.step + 1)
            (self._unkept.discard if keep else self._unkept.add)(device)
        self._note(device, header, len(message.payload), len(payload), result)

    def _finish(self, device: str, message: Message) -> Arrays:
        """Take the client weights at the end of a pass. Raises `RemoteError` if they cannot be."""
        weights, header = client_weights_of(device, message, self._round.weights), message.header
        assert isinstance(header, Weights)
        epoch, steps, phases_s = header.epoch, header.steps, header.phases_s
        done = ClientPass(time_s=self._record.now(), epoch=epoch, device=device, steps=steps, phases_s=phases_s)
        self._record.write(done)
        return weights

    def _note(self, device: str, header: Smashed, up_bytes: int, down_bytes: int, result: StepResult) -> None:
        step = Step(
            time_s=self._record.now(),
            epoch=header.epoch,
            step=header.step,
            device=device,
            samples=header.tensor.shape[0],
            loss=result.loss,
            correct=result.correct,
            up_payload_bytes=up_bytes,
            down_payload_bytes=down_bytes,
            raw_payload_bytes=4 * math.prod(header.tensor.shape),
        )
        self._steps.append(step)
        self._record.write(step)

    def _traffic_so_far(self) -> tuple[int, int]:
        """Bytes up and down since the start, over all devices."""
        endpoint = self._fleet.endpoint
        return endpoint.received_bytes.total(), endpoint.sent_bytes.total()
