"""A page that shows two settings beside each other: accuracy against what it cost, and the savings."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from cutlayer_core.files import replace_file
from cutlayer_profiles.comparison.savings import Comparison, Series
from cutlayer_profiles.costs import Cost
from cutlayer_profiles.report.charts import cost_chart
from cutlayer_profiles.templates import render_page

__all__ = ["label_of", "write_page"]

LABELS = {
    "seconds": "time",
    "client_cpu_s": "client core seconds",
    "bytes": "traffic",
    "client_compute_by_passes": "client compute by passes",
}


def label_of(what: str) -> str:
    """The label of a quantity for people; joules come with their kind and scope, and estimates are marked."""
    if not what.startswith("energy_"):
        return LABELS[what]
    about = "≈ " if "estimated" in what else ""
    return f"{about}joules, {what.removeprefix('energy_').removesuffix('_j').replace('_', ' ')}"


def write_page(
    path: Path, groups: Mapping[str, Sequence[Series]], comparison: Comparison, doubts: Sequence[str], watermark: str
) -> Path:
    """Write the page, which needs no network. Raises `OSError`.

    Args:
        path: where to write it.
        groups: repeats by their setting's name.
        comparison: the comparison of these groups.
        doubts: reasons to doubt the numbers.
        watermark: text across charts of joules that were not measured.
    """
    columns = sorted({column for series in groups.values() for each in series for column in each.costs[-1].energy})
    charts = {
        "traffic": _chart(groups, lambda cost: (cost.sent_bytes + cost.received_bytes) / 1e6, "MB, both ways", ""),
        "client core seconds": _chart(groups, lambda cost: cost.client_cpu_s, "core seconds of the devices", ""),
    }
    for column in columns:
        metered = {
            name: [each for each in series if column in each.costs[-1].energy] for name, series in groups.items()
        }
        mark = "" if "measured" in column else watermark
        charts[label_of(column)] = _chart(metered, partial(_joules, column), label_of(column), mark)
    content = render_page(
        "cutlayer_profiles.comparison",
        "comparison.html.jinja",
        base=next(iter(groups)),
        repeats={name: len(series) for name, series in groups.items()},
        charts=charts,
        whats={what: label_of(what) for ratios in comparison.whole.values() for what in ratios},
        comparison=comparison,
        doubts=doubts,
    )
    replace_file(path, content.encode())
    return path


def _joules(column: str, cost: Cost) -> float:
    return cost.energy[column].energy_j if column in cost.energy else 0.0  # before the first report


def _chart(groups: Mapping[str, Sequence[Series]], amount: Callable[[Cost], float], label: str, mark: str) -> str:
    curves = {
        name: [([amount(cost) for cost in each.costs], each.accuracies) for each in series]
        for name, series in groups.items()
    }
    return cost_chart(curves, label, mark)
