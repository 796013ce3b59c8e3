"""What a board brings into each participation, and carries out of it."""

from typing import NamedTuple

from cutlayer_core.bundles.bundle import Bundle
from cutlayer_core.samples import data
from cutlayer_device.engines import Engine
from cutlayer_device.training.states import States
from cutlayer_profiles.profiler import Profiler

__all__ = ["Board"]


class Board(NamedTuple):
    """Everything that outlives one process of the server.

    Attributes:
        bundle: certified.
        engine: that of the bundle, with its weights.
        samples: the board's own.
        states: on its disk.
        profiler: measures what passes cost; None for no account of it.
    """

    bundle: Bundle
    engine: Engine
    samples: data.Samples
    states: States
    profiler: Profiler | None = None
