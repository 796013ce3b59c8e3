"""Smashed data only: the board infers, and the server trains."""

from collections.abc import Sequence

import msgspec

from cutlayer.schedules.mode import Mode

__all__ = ["Forward"]


class Forward(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="forward"):
    """Smashed data travel in every step, cut gradients never: for a client-side model that is frozen."""

    @property
    def exchanges(self) -> bool:
        """Whether cut gradients travel in any epoch."""
        return False

    def decide(self, epoch: int, losses: Sequence[float]) -> Mode:
        """The mode of ``epoch``, given the mean training loss of each epoch before it."""
        return Mode.FORWARD
