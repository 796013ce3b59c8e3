"""The energy of a stretch of time, and of the phases in it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.errors import UserError
from cutlayer_core.record.energy import Energy
from cutlayer_core.record.usage import Slot
from cutlayer_profiles.curve import Curve
from cutlayer_profiles.meters import Meter, Source

__all__ = ["IDLE", "Intervals", "energy_by_phase", "energy_of", "trace_of"]

IDLE = "idle"
"""The phase of all time between the others."""
_LEAST_SAMPLES = 10
"""With fewer readings in a phase, its energy says more about when the meter was read than about the phase."""
_MOST_GAPS = 0.02
_SLOW_S = 1.0
_MOST_SLOTS = 60


class Intervals(NamedTuple):
    """Begins and ends, (n,) each, of intervals on one clock, in order and without overlap."""

    begin_s: NDArray[np.float64]
    end_s: NDArray[np.float64]

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> "Intervals":
        """From pairs of (begin, end)."""
        both = np.array(pairs, np.float64).reshape(-1, 2)
        return cls(both[:, 0], both[:, 1])

    @property
    def seconds(self) -> float:
        """The length of all intervals together."""
        return float((self.end_s - self.begin_s).sum())


def energy_of(curve: Curve, begin_s: float, end_s: float, meter: Source) -> Energy:
    """The energy of all the time between two moments, with bounds of two standard deviations.

    u^2 = (gain E)^2 + (what the meter's steps add)^2. The error of a step is uniform over its width, and a counter has
    one at both ends.

    Raises:
        UserError: as in `Curve.energy_j`, or the meter was silent for too much of the time.
    """
    if float(curve.gap_s(begin_s, end_s)) > _MOST_GAPS * (end_s - begin_s):
        raise UserError(f"the meter was silent for more than {_MOST_GAPS:.0%} of the time")
    joules = float(curve.energy_j(begin_s, end_s))
    gain, step, _ = meter.accuracy
    deviation = step / np.sqrt(12)
    number = max(int(curve.samples_in(begin_s, end_s)), 1)
    steps_j = deviation * np.sqrt(2) if meter.counts else deviation / np.sqrt(number) * (end_s - begin_s)
    return _energy(joules, float(np.hypot(gain * joules, 2 * steps_j)), meter)


def energy_by_phase(
    curve: Curve, marks: Mapping[str, Intervals], begin_s: float, end_s: float, meter: Meter
) -> dict[str, Energy]:
    """The energy of each phase between two moments that was read often enough; the time between phases is `IDLE`.

    A phase's power is the mean of the readings that fell into it, over all its intervals, since interpolating between
    readings would smear it over its neighbours; the bounds include the scatter of these readings. So phases add up to
    the whole only roughly. There is no energy for phases shorter than twice a reading's own window, and none with a
    meter that is read only once a second.
    """
    found: dict[str, Energy] = {}
    if meter.period_s >= _SLOW_S:
        return found
    for phase, intervals in {**marks, IDLE: _between(marks, begin_s, end_s)}.items():
        power_w = curve.power_w(intervals.begin_s, intervals.end_s)
        lengths = intervals.end_s - intervals.begin_s
        if len(power_w) < _LEAST_SAMPLES or float(np.median(lengths[lengths > 0])) < 2 * meter.accuracy.window_s:
            continue
        joules = float(power_w.mean()) * intervals.seconds
        scatter_j = 2 * float(power_w.std(ddof=1)) / np.sqrt(len(power_w)) * intervals.seconds
        found[phase] = _energy(joules, float(np.hypot(meter.accuracy.gain * joules, scatter_j)), meter)
    return found


def _energy(joules: float, half: float, meter: Source) -> Energy:
    return Energy(
        energy_j=joules, low_j=max(joules - half, 0.0), high_j=joules + half, kind=meter.kind, scope=meter.scope
    )


def trace_of(curve: Curve, marks: Mapping[str, Intervals], begin_s: float, end_s: float) -> tuple[Slot, ...]:
    """The mean power of up to `_MOST_SLOTS` even stretches, at most one per sample, and the main phase of each."""
    number = min(_MOST_SLOTS, int(curve.samples_in(begin_s, end_s)))
    if number < 2:
        return ()
    edges = np.linspace(begin_s, end_s, number + 1)
    power_w = curve.energy_j(edges[:-1], edges[1:]) / np.diff(edges)
    phases = {**marks, IDLE: _between(marks, begin_s, end_s)}
    spent = np.stack([np.diff(_spent_until(intervals, edges)) for intervals in phases.values()])
    names = list(phases)
    return tuple(
        Slot(power_w=float(watts), phase=names[place])
        for watts, place in zip(power_w, spent.argmax(axis=0), strict=True)
    )


def _spent_until(intervals: Intervals, moments_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many seconds of the intervals lie before each moment."""
    edges = np.stack([intervals.begin_s, intervals.end_s], axis=1).reshape(-1)
    lengths = np.repeat(np.cumsum(intervals.end_s - intervals.begin_s), 2)
    lengths[::2] -= intervals.end_s - intervals.begin_s
    return np.interp(moments_s, edges, lengths) if len(edges) else np.zeros_like(moments_s)


def _between(marks: Mapping[str, Intervals], begin_s: float, end_s: float) -> Intervals:
    """The time that no interval covers."""
    starts = np.concatenate([*(each.begin_s for each in marks.values()), [end_s]])
    ends = np.concatenate([[begin_s], *(each.end_s for each in marks.values())])
    starts, ends = np.sort(starts), np.sort(ends)
    return Intervals(ends, np.maximum(starts, ends))
