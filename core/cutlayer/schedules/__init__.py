"""Schedules: who sends and updates when. Pure decisions; a schedule never sees a tensor, a socket or a clock."""

from cutlayer.schedules.every import Every
from cutlayer.schedules.forward import Forward
from cutlayer.schedules.loss_gated import LossGated
from cutlayer.schedules.mode import Mode
from cutlayer.schedules.replay import Replay

__all__ = ["Every", "Forward", "LossGated", "Mode", "Replay", "Schedule"]

Schedule = Every | Forward | LossGated | Replay
"""The table of schedules: the types that ``[schedule]`` in a trial file may name by ``id``."""
