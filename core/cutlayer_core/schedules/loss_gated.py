"""Exchange only while the loss still moves."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from cutlayer_core.schedules.base import BaseSchedule
from cutlayer_core.schedules.mode import Mode

__all__ = ["LossGated"]


class LossGated(BaseSchedule, frozen=True, tag="loss_gated"):
    """Chen, Li & Chakrabarti, "Communication and computation reduction for split learning using asynchronous training".

    (arXiv 2107.09786.) After each epoch its mean training loss is compared with the one at the last decision to exchange:

        moved by ``threshold`` or more      EXCHANGE, and compare with this loss from now on
        else, after EXCHANGE                FORWARD: the server gets the smashed data of the client's final weights
        else                                SILENT: the server trains on those

    With threshold 0 every epoch exchanges. While nothing travels the server's loss keeps falling, so sooner or later
    the client is needed again; ``most_silent`` limits the number of silent epochs in a row (0: as many as the loss
    allows). With ``per`` "client" each client follows the rule on its own losses; otherwise all follow their mean.
    """

    threshold: Annotated[float, msgspec.Meta(ge=0)]
    most_silent: Annotated[int, msgspec.Meta(ge=0)] = 0
    per: Literal["trial", "client"] = "trial"

    @property
    def silences(self) -> bool:
        """See `BaseSchedule`."""
        return self.threshold > 0

    @property
    def per_client(self) -> bool:
        """See `BaseSchedule`."""
        return self.per == "client"

    def decide(self, epoch: int, losses: Sequence[float]) -> Mode:
        """See `BaseSchedule`."""
        mode, reference, silent = Mode.EXCHANGE, 0.0, 0
        for loss in losses:
            stale = bool(self.most_silent) and silent >= self.most_silent
            if abs(reference - loss) >= self.threshold or stale:
                mode, reference = Mode.EXCHANGE, loss
            else:
                mode = Mode.FORWARD if mode is Mode.EXCHANGE else Mode.SILENT
            silent = silent + 1 if mode is Mode.SILENT else 0
        return mode
