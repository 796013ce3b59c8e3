"""Where a training stands between two turns; with the models, it is what a checkpoint holds."""

from cutlayer_core.schedules import Mode
from cutlayer_core.wire.messages import Position
from cutlayer_server.training.checkpoints import Checkpoint
from cutlayer_server.training.epoch import ClientWeights, EpochProgress
from cutlayer_server.training.selection import History, Selection

__all__ = ["TrainingState"]


class TrainingState:
    """The present epoch, who takes part in it, and where each device stands.

    Args:
        selection: who takes part, in which mode.
        samples: how many each device announced.
    """

    def __init__(self, selection: Selection, samples: dict[str, int]) -> None:
        self.selection, self.samples = selection, samples
        self.progress = EpochProgress(0, ClientWeights({}))
        self.positions: dict[str, Position] = {}
        """After which of its optimizer steps a device stands; one that has taken none begins as its bundle says."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where the checkpoint was written."""
        self.selection.history = checkpoint.history
        self.progress, self.positions = checkpoint.progress, dict(checkpoint.positions)

    @property
    def history(self) -> History:
        """What decides about the epochs to come."""
        return self.selection.history

    def mode(self, device: str) -> Mode:
        """What a device does in this epoch."""
        return self.selection.mode(device)

    def note_step(self, device: str, samples: int) -> None:
        """The server-side model was trained on a batch of a device."""
        self.progress.steps[device] += 1
        self.progress.samples[device] += samples

    def forget(self, device: str) -> None:
        """The next process of a device begins its pass anew."""
        self.positions.pop(device, None)
        self.progress.restart(device)
