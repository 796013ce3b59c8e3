"""How much less one setting costs than another, over repeats, with confidence intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from statistics import NormalDist, fmean, variance
from typing import NamedTuple

from cutlayer_core.errors import UserError
from cutlayer_core.record.events import EpochDone
from cutlayer_core.record.record import Run
from cutlayer_profiles.coefficients import Board
from cutlayer_profiles.costs import Cost, costs_of

__all__ = ["Comparison", "Ratio", "Series", "compare_groups", "ratio", "series_of", "spread"]

_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % of Student's t, with 1 to 10 degrees of freedom."""


class Series(NamedTuple):
    """One run: what it had cost so far, and how accurate it was, after each epoch."""

    name: str
    costs: list[Cost]
    accuracies: list[float]

    def until(self, accuracy: float) -> Cost | None:
        """What the run had cost when it first reached this accuracy; None if it never did."""
        return next((cost for cost, each in zip(self.costs, self.accuracies, strict=True) if each >= accuracy), None)


class Ratio(NamedTuple):
    """How many times less something costs, with 95 % bounds if there are repeats of both sides."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f}x"
        return f"{self.value:.2f}x ({self.low:.2f} to {self.high:.2f})"


class Comparison(NamedTuple):
    """The comparison of each further setting with the first one.

    Attributes:
        accuracy: the test accuracy of ``to_accuracy``, as a share of 1.
        whole: ratios of whole runs, by setting and by quantity.
        per_round: the same for the mean cost of a round; they differ if runs have different numbers of rounds.
        to_accuracy: the same for the cost until a run first reached ``accuracy``; empty if a run never did.
        spread: for whole runs, the least and greatest ratio of joules over all coefficients within a board's bounds.
    """

    accuracy: float
    whole: dict[str, dict[str, Ratio]]
    per_round: dict[str, dict[str, Ratio]]
    to_accuracy: dict[str, dict[str, Ratio]]
    spread: dict[str, dict[str, tuple[float, float]]]

    def same_rounds(self, name: str) -> bool:
        """Whether a setting's runs had as many rounds as the first one's, so that a round saves as much as a run."""
        return math.isclose(self.whole[name]["seconds"].value, self.per_round[name]["seconds"].value)


def series_of(run: Run, board: Board | None = None, slower: float = 1.0) -> Series:
    """A run as a series. Raises `UserError` as `costs_of` does, and if no epoch was finished."""
    costs = costs_of(run, board, slower)
    if not costs:
        raise UserError(f"{run.path}: no epoch was finished")
    accuracies = [epoch.test_accuracy for epoch in run.all(EpochDone)]
    return Series(run.path.name, list(accumulate(costs)), accuracies)


def compare_groups(groups: Mapping[str, Sequence[Series]], accuracy: float | None = None) -> Comparison:
    """Compare the repeats of several settings with those of the first.

    Args:
        groups: repeats by the setting's name.
        accuracy: an accuracy at which they are compared as well; default: the greatest that every run ever reached.
    """
    if accuracy is None:
        accuracy = min(max(each.accuracies) for series in groups.values() for each in series)
    base, *others = groups
    ends = {name: [each.costs[-1] for each in series] for name, series in groups.items()}
    whole = {name: _compare(ends[base], ends[name]) for name in others}
    per_round = {name: _compare(ends[base], ends[name], per_round=True) for name in others}
    reached = {name: [each.until(accuracy) for each in series] for name, series in groups.items()}
    equal: dict[str, dict[str, Ratio]] = {}
    for name in others:
        one, two = ([cost for cost in reached[each] if cost is not None] for each in (base, name))
        complete = len(one) == len(reached[base]) and len(two) == len(reached[name])
        equal[name] = _compare(one, two) if complete else {}
    return Comparison(accuracy, whole, per_round, equal, {})


def spread(others: Sequence[Comparison]) -> dict[str, dict[str, tuple[float, float]]]:
    """``spread`` of `Comparison`, from comparisons of the same runs by different coefficients.

    The ratio of two runs' estimates with the same coefficients is monotonic in each coefficient, so its extremes are at
    their bounds; if repeats are alike, this holds for their means, too.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name, ratios in others[0].whole.items() if others else ():
        columns = [what for what in ratios if what.startswith("energy_")]
        values = {what: [each.whole[name][what].value for each in others] for what in columns}
        found[name] = {what: (min(each), max(each)) for what, each in values.items()}
    return found


def ratio(base: Sequence[float], other: Sequence[float]) -> Ratio:
    """The geometric mean of ``base`` over that of ``other``, with Welch's interval on their logarithms."""
    if min((*base, *other)) <= 0:
        return Ratio(math.inf if min(other) <= 0 < min(base) else math.nan, None, None)
    one, two = [math.log(value) for value in base], [math.log(value) for value in other]
    middle = fmean(one) - fmean(two)
    if len(one) < 2 or len(two) < 2:
        return Ratio(math.exp(middle), None, None)
    parts = [variance(each) / len(each) for each in (one, two)]
    error = math.sqrt(sum(parts))
    if error == 0.0:
        return Ratio(math.exp(middle), math.exp(middle), math.exp(middle))
    freedom = sum(parts) ** 2 / sum(part**2 / (len(each) - 1) for part, each in zip(parts, (one, two), strict=True))
    half = _t95(freedom) * error
    return Ratio(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def _t95(freedom: float) -> float:
    """97.5 % of Student's t, with degrees of freedom rounded down."""
    whole = max(int(freedom), 1)
    return _T95[whole - 1] if whole <= len(_T95) else NormalDist().inv_cdf(0.975) * (1 + 1.4 / whole)


def _compare(base: Sequence[Cost], other: Sequence[Cost], *, per_round: bool = False) -> dict[str, Ratio]:
    """How many times less ``other`` cost than ``base``: time, core seconds, bytes, compute by passes, and joules.

    Energies are compared column by column, so measured ones only with measured ones.
    """
    whats: dict[str, Callable[[Cost], float]] = {
        "seconds": lambda cost: cost.seconds,
        "client_cpu_s": lambda cost: cost.client_cpu_s,
        "bytes": lambda cost: cost.sent_bytes + cost.received_bytes,
        "client_compute_by_passes": lambda cost: cost.passes_of_3,
    }
    columns = set.intersection(*(set(cost.energy) for cost in (*base, *other)))
    for column in sorted(columns):
        joules = partial(_joules, column)
        if (
            min(joules(cost) for cost in (*base, *other)) > 0
        ):  # there is no ratio if, as far as a meter can tell, a run added nothing
            whats[column] = joules
    found = {}
    for what, read in whats.items():
        values = [[read(cost) / (cost.epochs if per_round else 1) for cost in costs] for costs in (base, other)]
        found[what] = ratio(*values)
    return found


def _joules(column: str, cost: Cost) -> float:
    return cost.energy[column].energy_j
