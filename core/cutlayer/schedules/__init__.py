"""Schedules: who sends and updates when. Pure decisions; a schedule never sees a tensor, a socket or a clock."""

from cutlayer.schedules.every import Every
from cutlayer.schedules.forward import Forward
from cutlayer.schedules.mode import Mode

__all__ = ["Every", "Forward", "Mode", "Schedule"]

Schedule = Every | Forward
"""The table of schedules: the types that ``[schedule]`` in a trial file may name by ``id``."""
