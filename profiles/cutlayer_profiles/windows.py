"""The energy of stretches of time: of a whole one, and of the phases in it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutlayer.energy import Energy
from cutlayer_profiles.curve import Curve
from cutlayer_profiles.meters import Meter

__all__ = ["IDLE", "Intervals", "energy_by_phase", "energy_of"]

IDLE = "idle"
"""The phase between all others."""
_LEAST_SAMPLES = 10
"""In a phase, or its energy says more about when the meter was read than about the phase."""
_MOST_GAPS = 0.02


class Intervals(NamedTuple):
    """(n,) begins and ends on one clock, in order, which do not overlap."""

    begin_s: NDArray[np.float64]
    end_s: NDArray[np.float64]

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> "Intervals":
        """From (begin, end) each."""
        both = np.array(pairs, np.float64).reshape(-1, 2)
        return cls(both[:, 0], both[:, 1])

    @property
    def seconds(self) -> float:
        """Of all together."""
        return float((self.end_s - self.begin_s).sum())


def energy_of(curve: Curve, intervals: Intervals, meter: Meter) -> Energy:
    """Of all intervals together, with bounds of two standard deviations.

    u^2 = (gain E)^2 + (what the meter's steps add)^2; a step's error is even over its width, and each interval of a counter has
    one at both ends.

    Raises:
        UserError: as `Curve.energy_j`.
    """
    joules = float(curve.energy_j(intervals.begin_s, intervals.end_s).sum())
    gain, step, _ = meter.accuracy
    deviation = step / np.sqrt(12)
    if meter.counts:
        steps_j = deviation * np.sqrt(2 * len(intervals.begin_s))
    else:
        number = max(int(curve.samples_in(intervals.begin_s, intervals.end_s).sum()), 1)
        steps_j = deviation / np.sqrt(number) * intervals.seconds
    half = float(np.hypot(gain * joules, 2 * steps_j))
    return Energy(energy_j=joules, low_j=joules - half, high_j=joules + half, kind=meter.kind, scope=meter.scope)


def energy_by_phase(
    curve: Curve, marks: Mapping[str, Intervals], begin_s: float, end_s: float, meter: Meter
) -> tuple[dict[str, Energy], list[str]]:
    """Of each phase between two moments in which the meter was read often enough; what is left between phases is `IDLE`.

    Returns:
        Energies, and why a phase has none although it was long enough.
    """
    found: dict[str, Energy] = {}
    flags: list[str] = []
    for phase, intervals in {**marks, IDLE: _between(marks, begin_s, end_s)}.items():
        if int(curve.samples_in(intervals.begin_s, intervals.end_s).sum()) < _LEAST_SAMPLES:
            continue
        if float(curve.gap_s(intervals.begin_s, intervals.end_s).sum()) > _MOST_GAPS * intervals.seconds:
            flags.append(f"{phase}: the meter was silent for more than {_MOST_GAPS:.0%} of it")
            continue
        found[phase] = energy_of(curve, intervals, meter)
    return found, flags


def _between(marks: Mapping[str, Intervals], begin_s: float, end_s: float) -> Intervals:
    """The time that no interval has."""
    starts = np.concatenate([*(each.begin_s for each in marks.values()), [end_s]])
    ends = np.concatenate([[begin_s], *(each.end_s for each in marks.values())])
    starts, ends = np.sort(starts), np.sort(ends)
    return Intervals(ends, np.maximum(starts, ends))
