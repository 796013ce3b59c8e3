"""Everything that a checkpoint holds, gathered from the parts of a training run and handed back to them."""

from collections.abc import Sequence

from cutlayer_core.record.record import Record
from cutlayer_server.model.server_models import ServerModels
from cutlayer_server.training.checkpoints import Checkpoint
from cutlayer_server.training.epoch_totals import EpochTotals
from cutlayer_server.training.silence import SilentPasses
from cutlayer_server.training.state import TrainingState

__all__ = ["Snapshots"]


class Snapshots:
    """Takes the whole state of a training, and restores it.

    Invariant: what a snapshot builds on, the run record and the passes that are kept, is on the disk before the
    snapshot.

    Args:
        run: number of the run.
        devices: of the trial.
        models: on the server.
        record: of the run.
        state: of the training.
        silent: the passes that are kept.
        totals: of the present epoch.
    """

    def __init__(
        self,
        run: int,
        devices: Sequence[str],
        models: ServerModels,
        record: Record,
        state: TrainingState,
        silent: SilentPasses,
        totals: EpochTotals,
    ) -> None:
        self._run, self._devices, self._models, self._record = run, devices, models, record
        self._state, self._silent, self._totals = state, silent, totals

    def take(self) -> Checkpoint:
        """The present state of the training; call it between two turns."""
        self._record.sync()
        self._silent.note_checkpoint(self._state.history.kept)
        return Checkpoint(
            run=self._run,
            history=self._state.history,
            progress=self._state.progress,
            positions=self._state.positions,
            model=self._models.state(),
            totals=self._totals.so_far(),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to where the checkpoint was written."""
        self._models.restore(checkpoint.model)
        progress = checkpoint.progress
        for device in self._devices:
            if device not in progress.returned and not progress.steps[device]:
                self._models.forget(device)  # it starts its pass over
        self._state.restore(checkpoint)
        self._silent.forget_checkpoints()
        self._totals.go_on(progress.epoch, checkpoint.totals)

    def clear(self) -> None:
        """Remove what is kept: the run is over, and will not be resumed."""
        self._silent.buffer.clear()

    def prune(self) -> None:
        """Remove what no snapshot and no later epoch needs."""
        self._silent.prune(self._state.history.kept)
