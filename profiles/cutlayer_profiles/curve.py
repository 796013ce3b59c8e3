"""Power over time, from a meter's samples, and the energy between any two moments."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cutlayer_core.errors import UserError

__all__ = ["Curve", "Samples"]

_GAP_PERIODS = 3.0


class Samples(NamedTuple):
    """The readings of a meter.

    Attributes:
        at_s: (n,) moments, increasing, on one clock.
        values: (n,) watts, or joules counted so far.
        counts: whether they are joules.
    """

    at_s: NDArray[np.float64]
    values: NDArray[np.float64]
    counts: bool = False


class Curve:
    """The energy since the first sample as a function of time.

    Between two samples the power is interpolated linearly, so energies are trapezoids, also up to a moment between
    samples; of a counter, the energy is interpolated linearly. The curve ends at the first and the last sample.

    Args:
        samples: at least two.
        period_s: how far apart they should be.
        window_s: each power is the mean over this time before it was read, so it is dated half of that earlier.

    Raises:
        UserError: there are fewer than two samples, their times do not increase, or a counter went back.
    """

    def __init__(self, samples: Samples, period_s: float, window_s: float = 0.0) -> None:
        at_s, values = samples.at_s - (0.0 if samples.counts else window_s / 2), samples.values
        if len(at_s) < 2 or not (
            np.all(np.diff(at_s) > 0) and np.all(np.isfinite(values)) and np.all(np.isfinite(at_s))
        ):
            raise UserError(f"a power curve needs two finite samples whose times rise, found {len(at_s)}")
        if samples.counts and np.any(np.diff(values) < 0):
            raise UserError("the counter went back: it was reset, so what it counted meanwhile is not known")
        self._at_s, self._values, self._counts, self._period_s = at_s, values, samples.counts, period_s
        steps = np.diff(values) if samples.counts else (values[1:] + values[:-1]) / 2 * np.diff(at_s)
        self._joules = np.concatenate([[0.0], np.cumsum(steps)])

    def power_w(self, begin_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """The power read inside of sorted intervals; of a counter, the power between two readings in one interval."""
        place = np.searchsorted(begin_s, self._at_s, "right") - 1
        inside = (
            (place >= 0) & (self._at_s <= end_s[np.maximum(place, 0)]) if len(begin_s) else np.zeros(len(place), bool)
        )
        if not self._counts:
            return np.asarray(self._values[inside])
        both = inside[:-1] & inside[1:] & (place[:-1] == place[1:])
        return np.asarray((np.diff(self._values) / np.diff(self._at_s))[both])

    @property
    def span_s(self) -> tuple[float, float]:
        """From the first sample to the last."""
        return float(self._at_s[0]), float(self._at_s[-1])

    def energy_j(self, begin_s: ArrayLike, end_s: ArrayLike) -> NDArray[np.float64]:
        """Joules in each of these intervals; edges up to one period outside the samples are moved inside.

        Raises:
            UserError: an interval begins or ends more than a period before the first or after the last sample.
        """
        return self._since_first(end_s) - self._since_first(begin_s)

    def samples_in(self, begin_s: ArrayLike, end_s: ArrayLike) -> NDArray[np.int64]:
        """How many samples each interval holds."""
        return np.searchsorted(self._at_s, end_s, "right") - np.searchsorted(self._at_s, begin_s, "left")

    def gap_s(self, begin_s: ArrayLike, end_s: ArrayLike) -> NDArray[np.float64]:
        """How long of each interval lies between samples that are more than three periods apart."""
        begin, end = np.asarray(begin_s, np.float64), np.asarray(end_s, np.float64)
        wide = np.flatnonzero(np.diff(self._at_s) > _GAP_PERIODS * self._period_s)
        found = np.zeros(np.broadcast(begin, end).shape)
        for place in wide:
            overlap = np.minimum(end, self._at_s[place + 1]) - np.maximum(begin, self._at_s[place])
            found += np.maximum(overlap, 0.0)
        return found

    def _since_first(self, moment_s: ArrayLike) -> NDArray[np.float64]:
        moment = np.asarray(moment_s, np.float64)
        first, last = self.span_s
        if np.any(moment < first - self._period_s) or np.any(moment > last + self._period_s):
            raise UserError(
                f"energy from {np.min(moment):.3f} to {np.max(moment):.3f} s is asked for, there are samples from {first:.3f} to "
                f"{last:.3f} s: let the meter run longer on both sides"
            )
        moment = np.clip(moment, first, last)
        place = np.clip(np.searchsorted(self._at_s, moment, "right") - 1, 0, len(self._at_s) - 2)
        into = moment - self._at_s[place]
        span = self._at_s[place + 1] - self._at_s[place]
        rise = self._values[place + 1] - self._values[place]
        if self._counts:
            return np.asarray(self._joules[place] + rise * into / span)
        return np.asarray(self._joules[place] + self._values[place] * into + rise * into**2 / (2 * span))
