"""The server's dealings with the devices in an epoch: begin a pass, answer batches, take weights back, checkpoint."""

import copy
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import msgspec

from cutlayer_core.bundles.bundle import Client
from cutlayer_core.errors import CutlayerError, PeerLost, RemoteError
from cutlayer_core.record.events import ClientPass, EpochDone, Joined, Missed
from cutlayer_core.record.phases import Phases
from cutlayer_core.record.record import Record
from cutlayer_core.schedules import Mode
from cutlayer_core.trial.trial import Trial
from cutlayer_core.wire.messages import Begin, Keep, Lacking, Message, Position, Weights, encode_weights
from cutlayer_server.fleet.fleet import Fleet
from cutlayer_server.model.averaging import Arrays
from cutlayer_server.model.server_model import Evaluation
from cutlayer_server.model.server_models import ServerModels
from cutlayer_server.training.checkpoints import KEPT, Checkpoint, Checkpoints
from cutlayer_server.training.epoch_totals import Ledger
from cutlayer_server.training.replay_buffer import Cache, Pass
from cutlayer_server.training.rounds import Round
from cutlayer_server.training.selection import Past, Plan
from cutlayer_server.training.step import Batch, Updates
from cutlayer_server.training.usage_reports import ask, note
from cutlayer_server.training.validation import client_weights_of

__all__ = ["Trainer"]


class Trainer:
    """Trains the server-side model with the devices of a fleet, and records what happens.

    A device's pass is what it sends, or, where its mode is silent, what the server has kept of an earlier one.

    Now and then both sides put their state on their disks, at one and the same point of the training, so that after a
    crash of either both go on from there. A device between two passes is asked to; one in a pass is told with the
    gradient. The next checkpoint comes only after every device has spoken again, hence has kept its part of this one.

    Args:
        trial: schedule, codecs, batch size, and how often to checkpoint.
        client: what the client-side model is, hence which smashed data and weights are acceptable.
        run: number of the run.
    """

    def __init__(
        self,
        trial: Trial,
        client: Client,
        fleet: Fleet,
        models: ServerModels,
        record: Record,
        checkpoints: Checkpoints,
        run: int,
    ) -> None:
        self._trial, self._fleet, self._models, self._record = trial, fleet, models, record
        self._checkpoints, self._run = checkpoints, run
        self._cache = Cache(record.path / "cache")
        self._phases = Phases()
        self._updates = Updates(trial, client, fleet, models, self._phases)
        self._plan = self._plan_from(Past())
        self._positions: dict[str, Position] = {}
        self._unkept: set[str] = set()
        """Devices whose present state is in their memory only."""
        self._held: dict[str, Arrays] = {}
        """The client weights that a device has now, as far as this process knows."""
        self._kept_at_s = time.monotonic()
        self._needed: deque[set[Pass]] = deque(maxlen=KEPT)
        """The passes in the cache that each of the newest checkpoints builds on."""
        self._knows_needed = True
        """Whether these are all there are."""
        self._samples = record.devices()
        """Of each device, as it announced them."""
        self._replays: dict[str, Iterator[Message]] = {}
        self._encoded: tuple[Arrays, bytes] = ({}, b"")
        """The weights that travelled last, and as what: all devices may begin with the same."""
        self._ledger = Ledger(record, fleet.endpoint, self._phases)

    def _plan_from(self, past: Past) -> Plan:
        return Plan(self._trial, shares_weights=not self._updates.joint, past=past)

    @property
    def devices(self) -> tuple[str, ...]:
        """See `Turns`."""
        return self._plan.devices(self._fleet.devices)

    def restore(self, checkpoint: Checkpoint) -> Round:
        """Go on as from where the checkpoint was written; returns how far its epoch had got."""
        self._models.restore(checkpoint.model)
        for device in self._trial.devices:
            if device not in checkpoint.round.returned and not checkpoint.round.steps[device]:
                self._models.forget(device)  # it begins its pass anew
        self._kept_at_s = float("-inf")  # however often somebody dies, each life gets further than the one before
        self._plan, self._positions = self._plan_from(copy.deepcopy(checkpoint.past)), dict(checkpoint.positions)
        self._knows_needed = False
        self._round, self._updates.samples = checkpoint.round, self._samples
        self._plan.go_on(self._fleet.listed)
        self._ledger.go_on(checkpoint.round.epoch, checkpoint.books)
        return checkpoint.round

    def start(self, state: Round) -> None:
        """From now on, turns belong to this epoch."""
        self._round, self._updates.samples = state, self._samples
        self._plan.start(state.epoch, self._fleet.listed, self._fleet.devices)
        self._ledger.open(state.epoch)

    def rest(self) -> None:
        """Before the first pass, if the trial says so: have the devices do nothing, and note what they drew. Raises as `turn`."""
        if not self._trial.idle_s:
            return
        rested = ask(self._fleet, self._fleet.devices, self._trial.idle_s)
        for device in list(self._fleet.devices):
            if (message := self._hear(device, rested)) is not None:
                note(self._record, device, message)
        self._ledger.open(self._round.epoch)  # the rest is no part of the epoch

    def take_in(self, epoch: int) -> None:
        """Let the devices that came since the training began take part from this epoch on."""
        for name, presence in self._fleet.take_in(self._samples).items():
            self._forget(name)
            self._samples[name] = presence.samples
            joined = Joined(time_s=self._record.now(), epoch=epoch, device=name, samples=presence.samples)
            self._record.write(joined)

    def end(self, evaluate: Callable[[], Evaluation]) -> EpochDone:
        """Close the books of the epoch, evaluate, and record both."""
        returned = self._round.returned
        self._models.merge({device: self._round.samples[device] for device in returned})
        self._fleet.endpoint.conversations.expect_no_answers()  # of ours, for as long as the evaluation takes
        books, modes = self._ledger.stop(), self._plan.modes(returned)
        loss = self._plan.end(self._ledger.steps, returned)
        test = evaluate()
        if not math.isfinite(test.loss):
            raise CutlayerError(
                f"the test loss after epoch {self._round.epoch + 1} is {test.loss}: lower the learning rates"
            )
        done = self._ledger.close(books, loss, test, modes, self._plan.missing(returned, self._fleet.devices))
        self._prune()
        return done

    def close(self) -> None:
        """The run is over, and nothing of it will be gone on with."""
        self._cache.clear()

    def begin(self, device: str, weights: Arrays) -> None:
        """See `Turns`. A device in the middle of optimizer steps has its weights from its own state."""
        mode, steps, epoch = self._plan.mode(device), self._round.steps[device], self._round.epoch
        if mode is Mode.SILENT:
            self._replays[device] = self._cache.read(device, self._plan.past.kept[device], steps)
            return
        if mode is Mode.FORWARD:
            self._keep([device])  # while its state does not change, a checkpoint cannot ask for it
            if device not in self.devices:
                return
            if self._trial.schedule.silences:
                self._cache.begin(device, epoch, steps)
        has_them = self._held.get(device) is weights or (mode is Mode.EXCHANGE and steps > 0)
        if not has_them and self._encoded[0] is not weights:
            self._encoded = weights, encode_weights(weights)
        self._fleet.say(device, Begin(epoch=epoch, mode=mode, steps=steps), b"" if has_them else self._encoded[1])
        self._held[device] = weights

    def turn(self, devices: list[str]) -> None:
        """See `Turns`. Ends with a checkpoint, if one is due.

        Raises:
            PeerLost: a device is gone, and the training cannot go on without it.
            RemoteError: a device sent what does not fit the model, or ended its pass as it must not.
            OSError: the disk is full.
        """
        # Of several that are gone, each is waited for since then, without what we spent on others.
        began = time.monotonic()
        due = began - self._kept_at_s >= self._trial.checkpoint_s
        together: list[Batch] = []
        for device in devices:
            message = self._next(device, began)
            if message is None:
                continue
            taken = time.monotonic()
            try:
                batch = self._take(device, message)
            except RemoteError as error:
                error.device = device
                raise
            if batch is not None and self._updates.joint:
                together.append(batch)
            elif batch is not None:
                self._train([batch], keep=due)
            began += time.monotonic() - taken
        if together:
            self._train(together, keep=due)
        if due:
            here = self.devices
            passing = [device for device in devices if device in here and device not in self._round.returned]
            answering = [device for device in passing if self._plan.mode(device) is not Mode.SILENT]
            self._keep([device for device in self._fleet.devices if device not in answering])
            self.checkpoint()

    def _next(self, device: str, since: float) -> Message | None:
        """What comes next in a device's pass; None if it was lost, or its pass was silent and is over."""
        if self._plan.mode(device) is not Mode.SILENT:
            with self._phases("wait"):
                return self._hear(device, since)
        message = next(self._replays[device], None)
        if message is None:
            self._round.returned[device] = self._begun_with(device)
        return message

    def _take(self, device: str, message: Message) -> Batch | None:
        """A batch, decoded; None if the pass is over. Raises `RemoteError` if it is none that can be."""
        mode = self._plan.mode(device)
        if isinstance(message.header, Weights):
            self._finish(device, message)
            return None
        batch = self._updates.decode(device, mode, message)
        if self._round.samples[device] + len(batch.labels) > self._samples[device]:
            raise RemoteError(f"{device} sent more than the {self._samples[device]} samples that it announced")
        if mode is Mode.FORWARD and self._trial.schedule.silences:
            self._cache.add(device, message)
        if mode is Mode.SILENT:  # it was kept under the numbers of another epoch
            header = msgspec.structs.replace(batch.header, epoch=self._round.epoch)
            return batch._replace(header=header)
        return batch

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
            message = self._fleet.hear(device, since)
            while isinstance(message.header, Lacking):
                self._updates.repeat(device, message.header)
                message = self._fleet.hear(device, since)
        except PeerLost as error:
            if not self._fleet.can_spare(device):
                raise
            self._fleet.release(device)
            self._forget(device)
            now, epoch = self._record.now(), self._round.epoch
            self._record.write(Missed(time_s=now, epoch=epoch, device=device, reason=str(error)))
            return None
        return message

    def _forget(self, device: str) -> None:
        """Its next process begins its next pass from the start."""
        self._unkept.discard(device)
        self._positions.pop(device, None)
        self._held.pop(device, None)
        self._cache.end(device)
        if device not in self._round.returned:
            self._models.forget(device)
        self._round.restart(device)

    def checkpoint(self) -> None:
        """Write one of now; every device must have kept its state, or be about to. Raises `OSError`."""
        with self._phases("checkpoint"):
            self._record.sync()
            self._cache.sync()
            self._checkpoints.write(self._state())
        self._needed.append({*self._plan.past.kept.items(), *self._cache.going_on})
        self._knows_needed |= len(self._needed) == KEPT
        self._prune()
        self._kept_at_s = time.monotonic()

    def _prune(self) -> None:
        """Remove passes from the cache that neither the training nor a checkpoint needs any longer."""
        if self._knows_needed:
            now = {*self._plan.past.kept.items(), *self._cache.going_on}
            self._cache.keep_only(now.union(*self._needed))

    def _state(self) -> Checkpoint:
        return Checkpoint(
            run=self._run,
            past=self._plan.past,
            round=self._round,
            positions=self._positions,
            model=self._models.state(),
            books=self._ledger.so_far(),
        )

    def _train(self, batches: list[Batch], *, keep: bool) -> None:
        """Update the server-side model, answer, and take note."""
        for trained in self._updates.train(batches, keep=keep):
            device, header = trained.batch.device, trained.batch.header
            self._round.steps[device] += 1
            self._round.samples[device] += len(trained.batch.labels)
            if trained.batch.mode is Mode.EXCHANGE:
                self._positions[device] = Position(header.epoch, header.step + 1)
                (self._unkept.discard if keep else self._unkept.add)(device)
            self._ledger.note(trained)

    def _finish(self, device: str, message: Message) -> None:
        """A pass is over. Raises `RemoteError` if it cannot end like this."""
        exchanged = self._plan.mode(device) is Mode.EXCHANGE
        weights = client_weights_of(device, message, self._begun_with(device), changed=exchanged)
        header = message.header
        assert isinstance(header, Weights)
        if self._round.samples[device] != self._samples[device]:
            raise RemoteError(
                f"{device} ended its pass after {self._round.samples[device]} of the {self._samples[device]} samples that it "
                "announced"
            )
        self._round.returned[device] = self._held[device] = weights
        if not exchanged and self._trial.schedule.silences:
            self._cache.end(device)
            self._plan.past.kept[device] = header.epoch
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
        return self._held.get(device, self._round.weights.of(device))
