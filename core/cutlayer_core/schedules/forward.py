"""Smashed data only: the board infers, and the server trains."""

from collections.abc import Sequence

from cutlayer_core.schedules.base import BaseSchedule
from cutlayer_core.schedules.mode import Mode

__all__ = ["Forward"]


class Forward(BaseSchedule, frozen=True, tag="forward"):
    """Smashed data travel in every step, cut gradients never: for a client-side model that is frozen."""

    @property
    def exchanges(self) -> bool:
        """See `BaseSchedule`."""
        return False

    def decide(self, epoch: int, losses: Sequence[float]) -> Mode:
        """See `BaseSchedule`."""
        return Mode.FORWARD
