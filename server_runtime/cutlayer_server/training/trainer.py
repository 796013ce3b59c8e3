"""Training, epoch by epoch: who takes part, the devices' turns, evaluation, and what an epoch cost."""

import math
from collections.abc import Callable

from cutlayer_core.bundles.bundle import Client
from cutlayer_core.errors import CutlayerError
from cutlayer_core.record.events import EpochDone
from cutlayer_core.record.phases import Phases
from cutlayer_core.record.record import Record
from cutlayer_core.trial.trial import Trial
from cutlayer_server.fleet.fleet import Fleet
from cutlayer_server.model.server_model import Evaluation
from cutlayer_server.model.server_models import ServerModels
from cutlayer_server.training.aggregation import run_epoch
from cutlayer_server.training.attendance import Attendance
from cutlayer_server.training.checkpoints import Checkpoint, Checkpoints
from cutlayer_server.training.epoch import ClientWeights, EpochProgress
from cutlayer_server.training.epoch_totals import EpochTotals
from cutlayer_server.training.keeping import Keeping
from cutlayer_server.training.passes import Passes
from cutlayer_server.training.replay_buffer import ReplayBuffer
from cutlayer_server.training.selection import History, Selection
from cutlayer_server.training.silence import SilentPasses
from cutlayer_server.training.snapshots import Snapshots
from cutlayer_server.training.state import TrainingState
from cutlayer_server.training.step import TrainingStep
from cutlayer_server.training.turns import Turns

__all__ = ["Trainer"]


class Trainer:
    """Trains the server-side model with the devices of a fleet, and records what happens.

    Args:
        trial: schedule, codecs, batch size, and how often to checkpoint.
        client: describes the client-side model, and so which smashed data and weights are acceptable.
        fleet: the devices, gathered.
        models: trained in place.
        record: of the run.
        checkpoints: of the run.
        run: its number.
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
        self._aggregation, self._fleet, self._models = trial.aggregation, fleet, models
        phases, samples, silences = Phases(), record.devices(), trial.schedule.silences
        step = TrainingStep(trial, client, fleet, models, samples, phases)
        selection = Selection(trial, shares_weights=not step.is_joint, history=History())
        self._state = state = TrainingState(selection, samples)
        self._totals = EpochTotals(record, fleet.endpoint, phases)
        silent = SilentPasses(ReplayBuffer(record.path / "cache"))
        passes = Passes(fleet, record, state, step, silent, silences=silences)

        def forget(device: str) -> None:
            """Forget a device: its next process begins its next pass from the start."""
            keeping.forget(device)
            passes.forget(device)
            if device not in state.progress.returned:
                models.forget(device)
            state.forget(device)

        self._attendance = attendance = Attendance(fleet, record, state, step, forget)
        snapshots = Snapshots(run, trial.devices, models, record, state, silent, self._totals)
        self._keeping = keeping = Keeping(attendance, state, snapshots, checkpoints, trial.checkpoint_s, phases)
        self._turns = Turns(state, fleet, step, passes, attendance, keeping, self._totals, phases)

    def begin(self, weights: ClientWeights) -> EpochProgress:
        """Get ready for the first epoch, and write a checkpoint."""
        self.start(progress := EpochProgress(0, weights))
        self._keeping.write()
        return progress

    def restore(self, checkpoint: Checkpoint) -> EpochProgress:
        """Resume from where the checkpoint was written; returns how far its epoch had got."""
        self._keeping.restore(checkpoint)
        self._state.selection.go_on(self._fleet.roll.listed)
        return checkpoint.progress

    def start(self, progress: EpochProgress) -> None:
        """Start an epoch: from now on, turns belong to it."""
        self._state.progress = progress
        self._state.selection.start(progress.epoch, self._fleet.roll.listed, self._fleet.roll.devices)
        self._totals.open(progress.epoch)

    def rest(self, idle_s: float) -> None:
        """Before the first pass: have the devices idle, and record what they drew. Raises as `train`."""
        self._attendance.rest(idle_s)
        self._totals.open(self._state.progress.epoch)  # the rest is not part of the epoch

    def train(self) -> ClientWeights:
        """Run the rest of the epoch; returns the client weights that it ends with. Raises as `Turns.turn`."""
        return run_epoch(self._aggregation, self._turns, self._state.progress)

    def end(self, evaluate: Callable[[], Evaluation]) -> EpochDone:
        """Stop counting, evaluate, and record the epoch. Raises `CutlayerError` if the training diverged."""
        state, returned = self._state, self._state.progress.returned
        self._models.merge({device: state.progress.samples[device] for device in returned})
        self._fleet.endpoint.conversations.expect_no_answers()  # from us, for as long as the evaluation takes
        totals, modes = self._totals.stop(), state.selection.modes(returned)
        loss = state.selection.end(self._totals.steps, returned)
        test = evaluate()
        if not math.isfinite(test.loss):
            raise CutlayerError(
                f"the test loss after epoch {state.progress.epoch + 1} is {test.loss}: lower the learning rates"
            )
        missing = state.selection.missing(returned, self._fleet.roll.devices)
        done = self._totals.close(totals, loss, test, modes, missing)
        self._keeping.prune()
        return done

    def take_in(self, epoch: int) -> None:
        """Let the devices that came since training began take part from this epoch on."""
        self._attendance.take_in(epoch)

    def close(self) -> None:
        """Clean up: the run is over, and will not be resumed."""
        self._keeping.clear()
