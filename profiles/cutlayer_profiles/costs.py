"""What a run cost its devices, epoch by epoch, from the run record alone."""

import itertools
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from cutlayer_core.errors import UserError
from cutlayer_core.record.energy import Energy, total
from cutlayer_core.record.events import ClientPass, EpochDone, Resumed, Step
from cutlayer_core.record.record import Run, read_run
from cutlayer_core.record.usage import Usage
from cutlayer_profiles.accounts import Account, accounts_of, baselines_of, began_s, spent_by_epoch
from cutlayer_profiles.coefficients import Activity, Board, estimate
from cutlayer_profiles.recordings import Recording
from cutlayer_profiles.windows import energy_of

__all__ = ["Cost", "costs_of", "doubts_of", "recorded_costs", "repeats"]


_LEAST_REPORTED = 0.95


class Cost(NamedTuple):
    """The cost of one epoch over all devices, or of several epochs together.

    Attributes:
        epochs: how many epochs.
        seconds: training time, without the evaluations.
        client_cpu_s: core seconds of the devices' processes.
        sent_bytes, received_bytes: whole MQTT packets, as counted at the server.
        samples_forward, samples_backward: samples that the devices passed through their models.
        energy: energies by column, which says kind and scope.
        phases: the same for each phase.
    """

    epochs: int
    seconds: float
    client_cpu_s: float
    sent_bytes: int
    received_bytes: int
    samples_forward: int
    samples_backward: int
    energy: dict[str, Energy]
    phases: dict[str, dict[str, Energy]]

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
        """The cost of both, one after the other."""
        names = sorted(self.phases.keys() | other.phases.keys())
        return Cost(
            epochs=self.epochs + other.epochs,
            seconds=self.seconds + other.seconds,
            client_cpu_s=self.client_cpu_s + other.client_cpu_s,
            sent_bytes=self.sent_bytes + other.sent_bytes,
            received_bytes=self.received_bytes + other.received_bytes,
            samples_forward=self.samples_forward + other.samples_forward,
            samples_backward=self.samples_backward + other.samples_backward,
            energy=_merged([self.energy, other.energy]),
            phases={name: _merged([self.phases.get(name, {}), other.phases.get(name, {})]) for name in names},
        )

    @property
    def passes_of_3(self) -> float:
        """Client compute in forward passes, of which a backward pass counts as two (Chen et al., arXiv 2107.09786)."""
        return self.samples_forward + 2.0 * self.samples_backward


def repeats(path: Path) -> list[Run]:
    """The run in this folder, or the runs in its sub-folders. Raises `UserError` if there is none."""
    if (path / "events.jsonl").exists():
        return [read_run(path)]
    found = [read_run(each.parent) for each in sorted(path.glob("*/events.jsonl"))]
    if not found:
        raise UserError(f"{path}: is neither a run record nor a folder of such")
    return found


def costs_of(run: Run, board: Board | None = None, slower: float = 1.0) -> list[Cost]:
    """The cost of each finished epoch.

    Core seconds are those of the epoch's passes. Joules cover all the time from the end of the epoch before to its own
    end, including the evaluation, in which devices wait; a report that covers several epochs is divided among them.

    Args:
        run: a run whose devices reported what they spent.
        board: gives coefficients to estimate joules by; without it the joules are those that the devices reported.
        slower: how many core seconds that board needs for one of the machine where the run was recorded.

    Raises:
        UserError: the devices reported nothing.
    """
    epochs = run.all(EpochDone)
    passes: list[ClientPass] = run.all(ClientPass)
    if not passes or any(each.usage is None for each in passes):
        raise UserError(f"{run.path}: its devices did not report what they spent; they are of an older cutlayer")
    samples: Counter[tuple[int, str]] = Counter()
    for step in run.all(Step):
        samples[step.epoch, step.device] += step.samples
    accounts, edges = accounts_of(run), [began_s(run), *(epoch.time_s for epoch in epochs)]
    own: defaultdict[int, list[Account]] = defaultdict(list)
    for account in accounts:
        own[account.epoch].append(account)
    costs = [_worked(epoch, own[epoch.epoch], samples) for epoch in epochs]
    if board is not None:
        devices = len({account.device for account in accounts})
        lengths_s = [end - begin for begin, end in itertools.pairwise(edges)]
        estimates = [
            _estimated(cost, devices * seconds, board, slower, own[epoch.epoch])
            for cost, seconds, epoch in zip(costs, lengths_s, epochs, strict=True)
        ]
        return [cost._replace(energy=_by_column(found)) for cost, found in zip(costs, estimates, strict=True)]
    if not _metering_problem(run):
        spent = spent_by_epoch(accounts, {rest.device: rest for rest in baselines_of(run)}, edges)
        costs = [
            cost._replace(
                energy=_by_column(each.whole), phases={name: _by_column(found) for name, found in each.phases.items()}
            )
            for cost, each in zip(costs, spent, strict=True)
        ]
    return costs


def recorded_costs(run: Run, recording: Recording) -> list[Cost]:
    """As `costs_of`, with the joules of a recording, from the end of one epoch to the end of the next.

    Raises:
        UserError: as in `costs_of`, the recording does not cover the whole run, or the server was away in between.
    """
    if any(isinstance(fault, Resumed) and "server" in fault.reason for fault in run.faults):
        raise UserError(
            f"{run.path}: its server was away in between, so the times of a recording are not those of the run"
        )
    begins = [began_s(run), *(epoch.time_s for epoch in run.all(EpochDone))]
    costs = []
    for cost, begin_s, end_s in zip(costs_of(run), begins, begins[1:], strict=False):
        energy = energy_of(recording.curve, begin_s, end_s, recording)
        costs.append(cost._replace(energy={energy.column: energy}, phases={}))
    return costs


def doubts_of(run: Run) -> list[str]:
    """The reasons why a run's joules, or all of its costs, may not be what the devices spent."""
    usages = [account.usage for account in accounts_of(run)]
    doubts = [_metering_problem(run)] if any(usage.energy for usage in usages) else []
    if flags := {flag for usage in usages for flag in usage.flags}:
        doubts.append(f"{'; '.join(sorted(flags)[:3])}{', and others' if len(flags) > 3 else ''}")
    if held := {what for usage in usages for what in usage.throttled}:
        doubts.append(f"the processor was held back: {', '.join(sorted(held))}")
    doubts += [
        f"{rest.device} did nothing only {'after' if rest.before is None else 'before'} the training, or was not read the other time"
        for rest in baselines_of(run)
        if None in rest.watts and any(rest.watts)
    ]
    doubts += [
        f"{rest.device} drew {rest}, while it did nothing, or became hotter: something else than the training changed"
        for rest in baselines_of(run)
        if rest.drifted
    ]
    if again := sum(isinstance(fault, Resumed) for fault in run.faults):
        doubts.append(
            f"a side started anew {again} times; what was done twice, or before a board itself started anew, is not counted"
        )
    return [f"{run.path.name}: {doubt}" for doubt in doubts if doubt]


def _metering_problem(run: Run) -> str:
    """Why the reported joules do not cover the whole run and all devices alike; empty if they do."""
    usages: defaultdict[str, list[Usage]] = defaultdict(list)
    for account in accounts_of(run):
        usages[account.device].append(account.usage)
    every = [usage for own in usages.values() for usage in own]
    unmetered = [usage for usage in every if usage.energy is None]
    if sum(usage.seconds for usage in unmetered) > (1 - _LEAST_REPORTED) * sum(usage.seconds for usage in every):
        return f"the meter told nothing in {len(unmetered)} of {len(every)} reports, so there are no joules"
    if len({usage.energy.column for usage in every if usage.energy}) > 1:
        return "its devices have joules of different kinds or scopes, so there is no sum of them"
    meters = [own[-1].meter_id for own in usages.values() if own[-1].meter_id]
    if len(set(meters)) < len(meters):
        return (
            "several devices read one meter, which tells nothing of each: run one a board, or give them --energy none"
        )
    end_s = max((epoch.time_s for epoch in run.all(EpochDone)), default=0.0)
    begin_s = began_s(run)
    reported_s = min(sum(usage.seconds for usage in own) for own in usages.values())
    if reported_s < _LEAST_REPORTED * (end_s - begin_s):
        return (
            f"its devices last reported after {reported_s:.0f} of {end_s - begin_s:.0f} s, so there are no joules of the whole; "
            "an estimate with --board is of all the time"
        )
    return ""


def _worked(epoch: EpochDone, own: list[Account], samples: Counter[tuple[int, str]]) -> Cost:
    """The cost of an epoch's passes, without joules."""
    modes = {each.device: epoch.modes.get(each.device, epoch.mode) for each in own if each.passed}
    return Cost(
        epochs=1,
        seconds=epoch.duration_s,
        client_cpu_s=sum(each.usage.cpu_s for each in own),
        sent_bytes=epoch.up_bytes,
        received_bytes=epoch.down_bytes,
        samples_forward=sum(samples[epoch.epoch, device] for device, mode in modes.items() if mode != "silent"),
        samples_backward=sum(samples[epoch.epoch, device] for device, mode in modes.items() if mode == "exchange"),
        energy={},
        phases={},
    )


def _estimated(cost: Cost, seconds: float, board: Board, slower: float, own: list[Account]) -> list[Energy]:
    """Joules by coefficients; a slower board is taken to spend the extra computing time on one core."""
    seconds += max(slower - 1.0, 0.0) * cost.client_cpu_s
    activity = Activity(seconds, slower * cost.client_cpu_s, cost.sent_bytes, cost.received_bytes)
    return list(estimate(board, activity, throttled=any(each.usage.throttled for each in own)))


def _by_column(energies: list[Energy]) -> dict[str, Energy]:
    """The sums of energies of the same column."""
    columns = sorted({energy.column for energy in energies})
    sums = {column: total(energy for energy in energies if energy.column == column) for column in columns}
    return {column: whole for column, whole in sums.items() if whole is not None}


def _merged(tables: list[dict[str, Energy]]) -> dict[str, Energy]:
    return _by_column([energy for table in tables for energy in table.values()])
