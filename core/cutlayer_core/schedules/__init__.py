"""Schedules: who sends and updates when. Pure decisions; a schedule never sees a tensor, a socket or a clock."""

from cutlayer_core.schedules.every import Every
from cutlayer_core.schedules.forward import Forward
from cutlayer_core.schedules.loss_gated import LossGated
from cutlayer_core.schedules.mode import Mode
from cutlayer_core.schedules.replay import Replay

__all__ = ["Every", "Forward", "LossGated", "Mode", "Replay", "Schedule"]

Schedule = Every | Forward | LossGated | Replay
"""The table of schedules: the types that ``[schedule]`` in a trial file may name by ``id``."""
