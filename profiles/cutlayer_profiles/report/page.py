"""The page of a run."""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from cutlayer_core.record.events import ClientPass, EpochDone, Joined, Missed, Quarantined, Resumed
from cutlayer_core.record.record import Run, read_run
from cutlayer_core.trial.codec_summary import codec_summary
from cutlayer_profiles.report.charts import accuracy_chart, loss_chart, phase_chart, traffic_chart
from cutlayer_profiles.report.spending import energy_charts, spending_of
from cutlayer_profiles.templates import render_page

__all__ = ["render", "write_report"]


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run record; returns its path. Raises `UserError` if it is no run record."""
    path = run_dir / "report.html"
    path.write_text(render(read_run(run_dir)), encoding="utf-8")
    return path


def render(run: Run) -> str:
    """The page as HTML that needs no network. Whatever came over one, such as device names, is escaped."""
    summary = run.summary
    payload = summary.up_payload_bytes + summary.down_payload_bytes
    ways = 2 if summary.down_payload_bytes else 1
    return render_page(
        "cutlayer_profiles.report",
        "report.html.jinja",
        run=run,
        summary=summary,
        charts=_charts(run),
        links=run.links,
        faults=[_fault(each) for each in run.faults],
        ratio=ways * summary.raw_payload_bytes / payload if payload else None,
        codec=codec_summary(run.trial_text),
        epochs=run.all(EpochDone),
        spending=spending_of(run),
    )


class _Fault(NamedTuple):
    """A line of the table of faults."""

    time_s: float
    what: str
    went_on: str


def _fault(event: Resumed | Quarantined | Missed | Joined) -> _Fault:
    match event:
        case Quarantined():
            what, went_on = f"{event.device} was left out: {event.reason}", ""
        case Missed():
            what, went_on = f"{event.device} was missed: {event.reason}", "there, without it"
        case Joined():
            what, went_on = f"{event.device} joined", f"epoch {event.epoch + 1}"
        case Resumed():
            what, went_on = event.reason, f"step {event.step} of epoch {event.epoch + 1}"
    return _Fault(event.time_s, what, went_on)


def _charts(run: Run) -> dict[str, str]:
    """Charts by title; none before the first epoch is over."""
    epochs: list[EpochDone] = run.all(EpochDone)
    if not epochs:
        return {}
    numbers = [each.epoch + 1 for each in epochs]
    charts = {
        "Loss": loss_chart(numbers, [each.loss for each in epochs], [each.test_loss for each in epochs]),
        "Accuracy": accuracy_chart(
            numbers, [each.accuracy for each in epochs], [each.test_accuracy for each in epochs]
        ),
        "Traffic": traffic_chart(numbers, [each.up_bytes for each in epochs], [each.down_bytes for each in epochs]),
        "Time by phase": phase_chart(_seconds(run)),
    }
    return charts | energy_charts(run)


def _seconds(run: Run) -> dict[str, dict[str, float]]:
    """Seconds by phase, for the server and each device."""
    seconds: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    passes: list[ClientPass] = run.all(ClientPass)
    epochs: list[EpochDone] = run.all(EpochDone)
    for name, phases in [("server", each.phases_s) for each in epochs] + [
        (each.device, each.phases_s) for each in passes
    ]:
        for phase, spent in phases.items():
            seconds[name][phase] += spent
    return {name: dict(phases) for name, phases in seconds.items()}
