"""The charts of a report, as SVG text. Each takes plain numbers, so it can be looked at without a run."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

__all__ = [
    "accuracy_chart",
    "cost_chart",
    "joules_chart",
    "loss_chart",
    "phase_chart",
    "power_chart",
    "traffic_chart",
]

_UP, _DOWN = "#2f6fde", "#e0793a"
_TRAIN, _TEST = "#8a94a6", "#2f6fde"
_SETTINGS = ("#8a94a6", "#2f6fde", "#e0793a", "#4fae8c", "#6a4fbf", "#c9b458")
_PHASES = {
    "load": "#c9b458",
    "forward": "#2f6fde",
    "backward": "#17408f",
    "train": "#6a4fbf",
    "encode": "#4fae8c",
    "decode": "#9bd3bd",
    "send": "#e0793a",
    "checkpoint": "#8a7f5c",
    "keep": "#8a7f5c",
    "network": "#f2c4a0",
    "server": "#c8bfe7",
    "wait": "#d9dde4",
    "idle": "#e6dcc8",
}
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a94a6",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ee",
    "svg.hashsalt": "cutlayer",
}


def loss_chart(epochs: Sequence[int], train: Sequence[float], test: Sequence[float]) -> str:
    """Training and test loss by epoch."""
    return _curves(epochs, {"training": train, "test": test}, "loss")


def accuracy_chart(epochs: Sequence[int], train: Sequence[float], test: Sequence[float]) -> str:
    """Training and test accuracy by epoch, as shares of 1."""
    return _curves(epochs, {"training": train, "test": test}, "accuracy")


def traffic_chart(epochs: Sequence[int], up_bytes: Sequence[int], down_bytes: Sequence[int]) -> str:
    """Bytes by epoch, up and down side by side."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        for shift, values, colour, label in ((-0.2, up_bytes, _UP, "up"), (0.2, down_bytes, _DOWN, "down")):
            axes.bar(
                [epoch + shift for epoch in epochs], [value / 1e3 for value in values], 0.38, color=colour, label=label
            )
        _label(axes, "epoch", "kB an epoch")
        figure.legend(frameon=False, ncols=2, loc="outside upper center", handlelength=1)
        axes.grid(axis="x", visible=False)
        return _svg(figure)


def phase_chart(seconds: Mapping[str, Mapping[str, float]]) -> str:
    """Where the time went: a bar for the server and for each device, stacked by phase.

    Args:
        seconds: seconds by phase, by whose time it is.
    """
    phases = [name for name in _PHASES if any(name in each for each in seconds.values())]
    phases += sorted({name for each in seconds.values() for name in each} - set(phases))
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(height=1.5 + 0.45 * len(seconds))
        left = dict.fromkeys(seconds, 0.0)
        for phase in phases:
            widths = [each.get(phase, 0.0) for each in seconds.values()]
            axes.barh(list(seconds), widths, 0.6, list(left.values()), color=_PHASES.get(phase), label=phase)
            left = {name: left[name] + width for name, width in zip(left, widths, strict=True)}
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("seconds, all epochs")
        figure.legend(frameon=False, ncols=4, loc="outside upper center", handlelength=1)
        return _svg(figure)


def cost_chart(
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]], label: str, watermark: str
) -> str:
    """Test accuracy, as shares of 1, against what it had cost by then.

    Args:
        curves: of each setting its repeats, each with costs and accuracies.
        label: of the costs, with their unit.
        watermark: across the chart; empty for none.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        for (name, repeats), colour in zip(curves.items(), _SETTINGS, strict=False):
            for number, (costs, accuracies) in enumerate(repeats):
                label_once = name if number == 0 else None
                axes.plot(costs, accuracies, color=colour, label=label_once, linewidth=1.4, marker="o", markersize=2.5)
        if watermark:
            axes.text(
                0.5, 0.5, watermark, transform=axes.transAxes, ha="center", va="center", color="#c3c9d4", fontsize=13
            )
        axes.set_xlabel(label)
        axes.set_ylabel("test accuracy")
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(frameon=False)
        return _svg(figure)


def power_chart(traces: Mapping[str, Sequence[tuple[float, float, float, str]]], label: str) -> str:
    """Power over time, one strip a device, coloured by phase.

    Args:
        traces: of each device stretches: begin and end in s, watts, phase.
        label: of the power: its kind and scope.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.0, 1.2 + 1.3 * len(traces)), layout="constrained")
        figure.patch.set_alpha(0)
        strips = figure.subplots(len(traces), 1, sharex=True, squeeze=False)[:, 0]
        shown: set[str] = set()
        for axes, (name, slots) in zip(strips, traces.items(), strict=True):
            axes.patch.set_alpha(0)
            for begin_s, end_s, power_w, phase in slots:
                fresh = phase if phase not in shown else None
                axes.bar(
                    begin_s, power_w, end_s - begin_s, align="edge", color=_PHASES.get(phase, "#b9bfca"), label=fresh
                )
                shown.add(phase)
            axes.set_ylabel(f"{name}\nW")
            axes.grid(axis="x", visible=False)
        strips[-1].set_xlabel(f"seconds; {label}")
        figure.legend(frameon=False, ncols=5, loc="outside upper center", handlelength=1)
        return _svg(figure)


def joules_chart(rounds: Mapping[int, Mapping[str, float]], label: str, watermark: str = "") -> str:
    """Joules a round over all devices, stacked by phase.

    Args:
        rounds: joules by phase, by the round's number.
        label: of the energy: its kind and scope.
        watermark: across the chart; empty for none.
    """
    phases = [name for name in _PHASES if any(name in each for each in rounds.values())]
    phases += sorted({name for each in rounds.values() for name in each} - set(phases))
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        bottom = dict.fromkeys(rounds, 0.0)
        for phase in phases:
            heights = [each.get(phase, 0.0) for each in rounds.values()]
            colour = _PHASES.get(phase, "#b9bfca")
            axes.bar(list(rounds), heights, 0.7, list(bottom.values()), color=colour, label=phase)
            bottom = {number: bottom[number] + height for number, height in zip(bottom, heights, strict=True)}
        if watermark:
            axes.text(
                0.5, 0.5, watermark, transform=axes.transAxes, ha="center", va="center", color="#c3c9d4", fontsize=13
            )
        _label(axes, "epoch", f"J, {label}")
        axes.grid(axis="x", visible=False)
        figure.legend(frameon=False, ncols=5, loc="outside upper center", handlelength=1)
        return _svg(figure)


def _curves(epochs: Sequence[int], curves: Mapping[str, Sequence[float]], what: str) -> str:
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        for (label, values), colour in zip(curves.items(), (_TRAIN, _TEST), strict=True):
            axes.plot(epochs, values, color=colour, label=label, linewidth=2, marker="o", markersize=3.5)
        _label(axes, "epoch", what)
        if what == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        else:
            axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        return _svg(figure)


def _figure(height: float = 3.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.0, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element; letters become paths, so that it looks alike wherever it is opened."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
