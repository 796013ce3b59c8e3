"""Passes without traffic: smashed data that are kept on disk, and read again in silent epochs."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from cutlayer_core.wire.messages import Message
from cutlayer_server.training.checkpoints import KEPT
from cutlayer_server.training.replay_buffer import Pass, ReplayBuffer

__all__ = ["SilentPasses"]

_Kept: TypeAlias = Mapping[str, int]
"""By device, the epoch of its smashed data that can be trained on again."""


class SilentPasses:
    """Records passes, and plays them back.

    Invariant: a pass stays on the disk as long as the training, or one of the newest checkpoints, may read it.

    Args:
        buffer: where passes are kept.
    """

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.buffer = buffer
        self._playing: dict[str, Iterator[Message]] = {}
        self._needed: deque[set[Pass]] = deque(maxlen=KEPT)
        """The passes that each of the newest checkpoints builds on."""
        self._knows_needed = True
        """Whether these are all the passes that checkpoints build on."""

    def play(self, device: str, epoch: int, start: int) -> None:
        """Have `next_message` return the batches that a device sent in this epoch, from number ``start`` on."""
        self._playing[device] = self.buffer.read(device, epoch, start)

    def next_message(self, device: str) -> Message | None:
        """The next batch; None after the last. Raises `CutlayerError` if it is damaged."""
        return next(self._playing[device], None)

    def forget_checkpoints(self) -> None:
        """Note that training resumes from a checkpoint: what older ones build on is not known."""
        self._knows_needed = False

    def note_checkpoint(self, kept: _Kept) -> None:
        """Prepare for a checkpoint; return once everything that it builds on is on the disk."""
        self.buffer.sync()
        self._needed.append(self._in_use(kept))
        self._knows_needed |= len(self._needed) == KEPT

    def prune(self, kept: _Kept) -> None:
        """Remove passes that neither the training nor a checkpoint needs any longer."""
        if self._knows_needed:
            self.buffer.keep_only(self._in_use(kept).union(*self._needed))

    def _in_use(self, kept: _Kept) -> set[Pass]:
        return {*kept.items(), *self.buffer.going_on}
