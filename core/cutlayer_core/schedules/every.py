"""Exchange in every epoch: vanilla split learning."""

from collections.abc import Sequence

from cutlayer_core.schedules.base import BaseSchedule
from cutlayer_core.schedules.mode import Mode

__all__ = ["Every"]


class Every(BaseSchedule, frozen=True, tag="every"):
    """Smashed data and cut gradients travel in every step of every epoch (Gupta & Raskar, arXiv 1810.06060)."""

    def decide(self, epoch: int, losses: Sequence[float]) -> Mode:
        """See `BaseSchedule`."""
        return Mode.EXCHANGE
