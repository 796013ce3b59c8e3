"""What survives a crash: states on the devices' disks and checkpoints on the server's, of the same moment."""

import time
from collections.abc import Iterable

from cutlayer_core.record.phases import Phases
from cutlayer_core.wire.messages import Keep, Position
from cutlayer_server.training.attendance import Attendance
from cutlayer_server.training.checkpoints import Checkpoint, Checkpoints
from cutlayer_server.training.snapshots import Snapshots
from cutlayer_server.training.state import TrainingState

__all__ = ["Keeping"]


class Keeping:
    """Has both sides save their states to disk, at one and the same point of the training.

    A device between two passes is asked to; a device in a pass is told with the gradient. The next checkpoint comes
    only after every device has spoken again, and so has kept its part of this one.

    Invariant: when a checkpoint is written, every device holds the state that it names, or was told to keep it.

    Args:
        attendance: asks devices.
        state: of the training.
        snapshots: of the training.
        checkpoints: of the run.
        checkpoint_s: how often a checkpoint is due.
        phases: where the time goes.
    """

    def __init__(
        self,
        attendance: Attendance,
        state: TrainingState,
        snapshots: Snapshots,
        checkpoints: Checkpoints,
        checkpoint_s: float,
        phases: Phases,
    ) -> None:
        self._attendance, self._state, self._snapshots = attendance, state, snapshots
        self._checkpoints, self._checkpoint_s, self._phases = checkpoints, checkpoint_s, phases
        self._unkept: set[str] = set()
        """Devices whose present state is only in memory."""
        self._kept_at_s = time.monotonic()

    def is_due(self, now: float) -> bool:
        """Whether the turn that begins now is to end with a checkpoint."""
        return now - self._kept_at_s >= self._checkpoint_s

    def note_step(self, device: str, position: Position, *, kept: bool) -> None:
        """Note that a device takes an optimizer step; ``kept`` if it keeps its state after it."""
        self._state.positions[device] = position
        (self._unkept.discard if kept else self._unkept.add)(device)

    def ask(self, devices: Iterable[str]) -> None:
        """Have these devices, which are between two passes, keep their states. Raises as `Fleet.hear`."""
        asked = [device for device in devices if device in self._unkept]
        for device in asked:
            self._attendance.tell(device, Keep(position=self._state.positions[device]))
        began = time.monotonic()
        for device in asked:
            self._attendance.hear(device, began)
            self._unkept.discard(device)

    def write(self) -> None:
        """Write a checkpoint of the present state. Raises `OSError`; the earlier ones stay."""
        with self._phases("checkpoint"):
            self._checkpoints.write(self._snapshots.take())
        self._snapshots.prune()
        self._kept_at_s = time.monotonic()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from a checkpoint. The next is due at once, so that each life gets further than the one before."""
        self._snapshots.restore(checkpoint)
        self._kept_at_s = float("-inf")

    def prune(self) -> None:
        """See `Snapshots.prune`."""
        self._snapshots.prune()

    def clear(self) -> None:
        """See `Snapshots.clear`."""
        self._snapshots.clear()

    def forget(self, device: str) -> None:
        """Forget a device: its next process has nothing to keep yet."""
        self._unkept.discard(device)
