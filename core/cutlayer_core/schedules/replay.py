"""Smashed data travel only in some epochs; in between, the server trains on what it kept."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from cutlayer_core.schedules.base import BaseSchedule
from cutlayer_core.schedules.mode import Mode

__all__ = ["Replay"]


class Replay(BaseSchedule, frozen=True, tag="replay"):
    """Every ``period``-th epoch is FORWARD, the others SILENT: for a client-side model that is pre-trained and frozen.

    Wu et al., "EcoFed: efficient communication for DNN partitioning-based federated learning" (arXiv 2304.05495), where the
    period is called rho. With period 1 this is `Forward`.
    """

    period: Annotated[int, msgspec.Meta(ge=1)] = 2

    @property
    def exchanges(self) -> bool:
        """See `BaseSchedule`."""
        return False

    @property
    def silences(self) -> bool:
        """See `BaseSchedule`."""
        return self.period > 1

    def decide(self, epoch: int, losses: Sequence[float]) -> Mode:
        """See `BaseSchedule`."""
        return Mode.SILENT if epoch % self.period else Mode.FORWARD
