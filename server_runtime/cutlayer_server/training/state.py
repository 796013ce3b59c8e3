"""Where training stands between two turns; together with the models, it is what a checkpoint holds."""

from cutlayer_core.schedules import Mode
from cutlayer_core.wire.messages import Position
from cutlayer_server.training.checkpoints import Checkpoint
from cutlayer_server.training.epoch import ClientWeights, EpochProgress
from cutlayer_server.training.selection import History, Selection

__all__ = ["TrainingState"]


class TrainingState:
    """The present epoch, who takes part in it, and where each device stands.

    Args:
        selection: who takes part, and in which mode.
        samples: number of samples that each device announced.
    """

    def __init__(self, selection: Selection, samples: dict[str, int]) -> None:
        self.selection, self.samples = selection, samples
        self.progress = EpochProgress(0, ClientWeights({}))
        self.positions: dict[str, Position] = {}
        """After which of its optimizer steps each device stands; one that has taken none begins from its bundle."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to where the checkpoint was written."""
        self.selection.history = checkpoint.history
        self.progress, self.positions = checkpoint.progress, dict(checkpoint.positions)

    @property
    def history(self) -> History:
        """What later epochs are decided by."""
        return self.selection.history

    def mode(self, device: str) -> Mode:
        """What a device does in this epoch."""
        return self.selection.mode(device)

    def note_step(self, device: str, samples: int) -> None:
        """Note that the server-side model was trained on a batch of a device."""
        self.progress.steps[device] += 1
        self.progress.samples[device] += samples

    def forget(self, device: str) -> None:
        """Forget a device's state: its next process starts its pass over."""
        self.positions.pop(device, None)
        self.progress.restart(device)
