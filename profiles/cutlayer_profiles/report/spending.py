"""What a report says of what the devices spent: a line a device, and the pictures of their joules."""

from collections import defaultdict
from typing import NamedTuple

from cutlayer_core.record.energy import Energy
from cutlayer_core.record.events import EpochDone
from cutlayer_core.record.record import Run
from cutlayer_core.record.usage import Usage
from cutlayer_profiles.accounts import Account, accounts_of, baselines_of, began_s, spent_by_epoch
from cutlayer_profiles.report.charts import joules_chart, power_chart

__all__ = ["Spending", "energy_charts", "spending_of"]

_ALL = "too short to part"


class Spending(NamedTuple):
    """Of one device over the whole run."""

    device: str
    cpu_s: float
    rss_peak_bytes: int
    energy: str
    idle: str
    meter: str
    notes: str


def spending_of(run: Run) -> list[Spending]:
    """Of each device that reported it."""
    usages: defaultdict[str, list[Usage]] = defaultdict(list)
    for each in accounts_of(run):
        usages[each.device].append(each.usage)
    idle = {rest.device: str(rest) for rest in baselines_of(run)}
    return [_spending(device, found, idle.get(device, "")) for device, found in usages.items()]


def _spending(device: str, usages: list[Usage], idle: str) -> Spending:
    energies: dict[str, Energy] = {}
    for usage in usages:
        if usage.energy is not None:
            column = usage.energy.column
            energies[column] = energies[column] + usage.energy if column in energies else usage.energy
    notes = {note for usage in usages for note in (*usage.flags, *usage.throttled)}
    return Spending(
        device=device,
        cpu_s=sum(usage.cpu_s for usage in usages),
        rss_peak_bytes=max((usage.rss_peak_bytes or 0) for usage in usages),
        energy="; ".join(map(str, energies.values())),
        idle=idle,
        meter=usages[-1].meter,
        notes="; ".join(sorted(notes)),
    )


def energy_charts(run: Run) -> dict[str, str]:
    """Charts by title, one of each for every kind and scope of joules that the devices reported."""
    accounts = [(each, each.usage.energy) for each in accounts_of(run) if each.usage.energy]
    charts: dict[str, str] = {}
    edges_s = [began_s(run), *(epoch.time_s for epoch in run.all(EpochDone))]
    for column in sorted({energy.column for _, energy in accounts}):
        own = [each for each, energy in accounts if energy.column == column]
        label = column.removeprefix("energy_").removesuffix("_j").replace("_", " ")
        mark = "" if label.startswith("measured") else label.split(" ", 1)[0] + ", not measured"
        if rounds := _rounds(own, edges_s):
            charts[f"Joules a round, {label}"] = joules_chart(rounds, label, mark)
        traces = _traces(own)
        if any(traces.values()):
            charts[f"Power, {label}"] = power_chart(traces, label)
    return charts


def _rounds(accounts: list[Account], edges_s: list[float]) -> dict[int, dict[str, float]]:
    """Joules by phase, by epoch; what no phase has, for want of samples, is of all."""
    rounds = {}
    for number, spent in enumerate(spent_by_epoch(accounts, {}, edges_s), 1):
        parts = {phase: sum(each.energy_j for each in found) for phase, found in spent.phases.items()}
        rest = sum(each.energy_j for each in spent.whole) - sum(parts.values())
        rounds[number] = {phase: joules for phase, joules in {**parts, _ALL: rest}.items() if joules > 0}
    return {number: phases for number, phases in rounds.items() if phases}


def _traces(accounts: list[Account]) -> dict[str, list[tuple[float, float, float, str]]]:
    """Of each device its slots: begin, end, watts, phase."""
    traces: defaultdict[str, list[tuple[float, float, float, str]]] = defaultdict(list)
    for each in accounts:
        if slots := each.usage.trace:
            length_s = each.usage.seconds / len(slots)
            begin_s = each.time_s - each.usage.seconds
            for number, slot in enumerate(slots):
                start_s = begin_s + number * length_s
                traces[each.device].append((start_s, start_s + length_s, slot.power_w, slot.phase))
    return dict(traces)
