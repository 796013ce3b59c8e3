"""The commands ``cutlayer profile trial`` and ``cutlayer profile compare``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from cutlayer_core.console import print_wide
from cutlayer_core.errors import UserError
from cutlayer_core.record.energy import Energy
from cutlayer_core.record.events import EpochDone
from cutlayer_core.record.record import Run
from cutlayer_profiles.accounts import accounts_of, baselines_of
from cutlayer_profiles.coefficients import Board, board_named, corners
from cutlayer_profiles.comparison.page import label_of, write_page
from cutlayer_profiles.comparison.savings import Comparison, Series, compare_groups, series_of, spread
from cutlayer_profiles.costs import Cost, costs_of, doubts_of, recorded_costs, repeats
from cutlayer_profiles.recordings import Recording

__all__ = ["compare_runs", "profile_trial"]


def profile_trial(run_dir: Path, board: str, slower: float, recording: Recording | None, as_json: bool) -> None:
    """Print what each round and each phase of a run cost its devices. Raises `UserError`."""
    (run,) = repeats(run_dir)[:1]
    coefficients, epochs = _board(board), run.all(EpochDone)
    costs = recorded_costs(run, recording) if recording else costs_of(run, coefficients, slower)
    if not costs:
        raise UserError(f"{run_dir}: no epoch was finished")
    doubts = doubts_of(run) + _cautions(coefficients, slower)
    if as_json:
        lines = [{"epoch": epoch.epoch, **cost._asdict()} for epoch, cost in zip(epochs, costs, strict=True)]
        idle_w = {rest.device: rest.watts for rest in baselines_of(run)}
        print(msgspec.json.encode({"epochs": lines, "idle_w": idle_w, "doubts": doubts}).decode())
        return
    console = Console(highlight=False, markup=False)  # phases and notes came over a network
    print_wide(_rounds(epochs, costs))
    whole = sum(costs[1:], costs[0])
    for phase, energies in whole.phases.items():
        console.print(f"{phase:<10} {', '.join(map(str, energies.values()))}")
    for rest in baselines_of(run):
        console.print(f"idle       {rest.device}: {str(rest) or 'not read'}")
    for device, (readings, cpu_s) in _overhead(run).items():
        console.print(f"meter      {device}: {readings} readings took {cpu_s:.2f} of its core seconds")
    for energy in whole.energy.values():
        console.print(f"whole run  {energy}")
    for doubt in doubts:
        console.print(f"note: {doubt}", soft_wrap=True)


def compare_runs(
    folders: Sequence[Path], board: str, slower: float, accuracy: float | None, page: Path | None, as_json: bool
) -> None:
    """Print how much less the runs of each further folder cost than those of the first. Raises `UserError`."""
    runs = {folder.name: repeats(folder) for folder in folders}
    if len(folders) < 2 or len(runs) < len(folders):
        raise UserError("profile compare: give two or more folders of different names, first the one to compare with")
    coefficients = _board(board)
    groups = _groups(runs, coefficients, slower)
    doubts = [doubt for each in runs.values() for run in each for doubt in doubts_of(run)]
    doubts += _cautions(coefficients, slower)
    comparison = compare_groups(groups, accuracy)
    if coefficients is not None:
        others = [compare_groups(_groups(runs, corner, slower), accuracy) for corner in corners(coefficients)]
        comparison = comparison._replace(spread=spread(others))
    if as_json:
        print(msgspec.json.encode({**comparison._asdict(), "doubts": doubts}).decode())
    else:
        console = Console(highlight=False, markup=False)
        for name in comparison.whole:
            print_wide(_savings(next(iter(groups)), name, comparison))
        for doubt in doubts:
            console.print(f"note: {doubt}", soft_wrap=True)
    if page is not None:
        mark = "estimated, not measured" if coefficients else "not measured"
        write_page(page, groups, comparison, doubts, mark)
        Console(stderr=True, highlight=False).print(f"page: {page}", soft_wrap=True)


def _overhead(run: Run) -> dict[str, tuple[int, float]]:
    """How often each device's meter was read, and the core seconds that took; devices without one are left out."""
    found: dict[str, tuple[int, float]] = {}
    for account in accounts_of(run):
        readings, cpu_s = found.get(account.device, (0, 0.0))
        found[account.device] = readings + account.usage.samples, cpu_s + account.usage.meter_cpu_s
    return {device: both for device, both in found.items() if both[0]}


def _groups(runs: Mapping[str, Sequence[Run]], board: Board | None, slower: float) -> dict[str, list[Series]]:
    return {name: [series_of(run, board, slower) for run in each] for name, each in runs.items()}


def _board(name: str) -> Board | None:
    return board_named(name) if name else None


def _cautions(board: Board | None, slower: float) -> list[str]:
    """Say what an estimate by coefficients is worth."""
    if board is None:
        return []
    text = (
        f"Joules are an estimate for a {board.name} from measured core seconds and bytes, as if it took {slower:g} times the "
        "core seconds of the machine that was measured; ratios say more than amounts"
    )
    return [text]


def _rounds(epochs: Sequence[EpochDone], costs: Sequence[Cost]) -> Table:
    columns = sorted({column for cost in costs for column in cost.energy})
    table = Table(box=None, pad_edge=False)
    for head in ("epoch", "mode", "accuracy", "seconds", "core s", "MB up", "MB down", *map(label_of, columns)):
        table.add_column(head, justify="left" if head == "mode" else "right")
    for epoch, cost in zip(epochs, costs, strict=True):
        table.add_row(
            str(epoch.epoch + 1),
            epoch.mode,
            f"{epoch.test_accuracy:.1%}",
            f"{cost.seconds:.2f}",
            f"{cost.client_cpu_s:.2f}",
            f"{cost.sent_bytes / 1e6:.2f}",
            f"{cost.received_bytes / 1e6:.2f}",
            *(_with_bounds(cost.energy.get(column)) for column in columns),
        )
    return table


def _with_bounds(energy: Energy | None) -> str:
    return "" if energy is None else f"{energy.energy_j:.3g} ({energy.low_j:.3g} to {energy.high_j:.3g})"


def _savings(base: str, name: str, comparison: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, title=f"{name}: how many times less than {base}", title_justify="left")
    table.add_column("")
    apart = not comparison.same_rounds(name)
    table.add_column("whole run" if apart else "whole run, and a round", justify="right")
    if apart:
        table.add_column("a round", justify="right")
    table.add_column(f"until {comparison.accuracy:.1%}", justify="right")
    spread = comparison.spread.get(name, {})
    if spread:
        table.add_column("whole run, any coefficients", justify="right")
    for what, ratio in comparison.whole[name].items():
        equal = comparison.to_accuracy[name].get(what)
        bounds = "{:.2f}x to {:.2f}x".format(*spread[what]) if what in spread else ""
        cells = (
            str(ratio),
            *([str(comparison.per_round[name][what])] if apart else []),
            str(equal) if equal else "not reached",
            *([bounds] if spread else []),
        )
        table.add_row(label_of(what), *cells)
    return table
