"""``cutlayer profile client``: every setting runs in its own process, so that each has its own memory and threads."""

import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.console import print_wide
from cutlayer_core.errors import CutlayerError, UserError
from cutlayer_core.files import replace_file
from cutlayer_device.profiling.measurement import Setting, StepCost, measure_step
from cutlayer_profiles.choice import choose_profiler
from cutlayer_profiles.machine import machine_name
from cutlayer_profiles.meters import Root, read_settings

__all__ = ["BoardProfile", "Sweep", "bundles_in", "measure_here", "profile_clients"]

_CHILD = "import sys; from cutlayer_device.profiling.board_profile import measure_here; measure_here(*sys.argv[1:])"


class BoardProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file that is written: what was measured, and on which machine."""

    machine: str
    python: str
    energy: str
    """Where the joules come from."""
    steps: list[StepCost]


class Sweep(NamedTuple):
    """Every bundle with every batch size and number of threads; ``seconds`` and ``idle_s`` as in `Setting`."""

    bundles: Sequence[Path]
    batch_sizes: Sequence[int]
    threads: Sequence[int]
    seconds: float
    idle_s: float

    def settings(self) -> list[Setting]:
        """All settings, grouped by bundle."""
        every = product(self.bundles, self.batch_sizes, self.threads)
        return [Setting(bundle, size, threads, self.seconds, self.idle_s) for bundle, size, threads in every]


def bundles_in(folder: Path) -> list[Path]:
    """The bundles in a folder that `cutlayer export --all-cuts` wrote, in the model's order. Raises `UserError`."""
    found = sorted(folder.glob("*.zip"))
    if not found:
        raise UserError(
            f"--all-cuts: {folder} has no bundles (*.zip): write them with `cutlayer export --all-cuts --out {folder}`"
        )
    return found


def profile_clients(
    sweep: Sweep, energy: str, meters: Path | None, out: Path | None, resume: bool, as_json: bool
) -> None:
    """Measure, print, and write the profile; with ``resume``, only what ``out`` does not have yet.

    Raises:
        UserError: a bundle or the meters' file is wrong, the required energy is not available, or ``out`` comes from
            another machine or meter; nothing was measured.
        CutlayerError: a child process failed.
    """
    models = {str(bundle): read_bundle(bundle).manifest.client.fingerprint for bundle in sweep.bundles}
    profiler, source = choose_profiler(Root(), read_settings(meters), energy)
    profiler.close()
    console = Console(stderr=as_json, highlight=False)
    console.print(f"energy: {source}", soft_wrap=True)
    profile = BoardProfile(machine=machine_name(Root()), python=platform.python_version(), energy=source, steps=[])
    if resume and out is not None and out.exists():
        profile = _begun(out, profile)
    # If a bundle of the same name held another model then, it is measured anew.
    profile.steps[:] = [cost for cost in profile.steps if models.get(cost.bundle, cost.fingerprint) == cost.fingerprint]
    known = {(cost.bundle, cost.batch_size, cost.threads) for cost in profile.steps}
    settings = [each for each in sweep.settings() if (str(each.bundle), each.batch_size, each.threads) not in known]
    for number, cost in enumerate(_measured(settings, energy, meters), 1):
        profile.steps.append(cost)
        profile.steps.sort(key=lambda each: (each.bundle, each.batch_size, each.threads))
        about = f"{cost.cut}, batch {cost.batch_size}, {_threads(cost.threads)}"
        console.print(f"{number}/{len(settings)}  {about}: {cost.step_ms:.2f} ms a step", soft_wrap=True)
        if out is not None:  # after each one, so that an interruption loses nothing
            replace_file(out, msgspec.json.format(msgspec.json.encode(profile)) + b"\n")
    if as_json:
        print(msgspec.json.encode(profile).decode())
    else:
        print_wide(_table(profile.steps))


def _begun(path: Path, like: BoardProfile) -> BoardProfile:
    """Read what was measured earlier on this machine, with this meter."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=BoardProfile)
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(f"--resume: {path} is no board profile: {error}") from error
    if (found.machine, found.energy) != (like.machine, like.energy):
        raise UserError(
            f"--resume: {path} is of {found.machine}, energy {found.energy}; here it is {like.machine}, energy {like.energy}: "
            "write to another --out"
        )
    return found


def _measured(settings: Sequence[Setting], energy: str, meters: Path | None) -> Iterator[StepCost]:
    for setting in settings:
        words = [sys.executable, "-c", _CHILD, *map(str, setting), energy, str(meters or "")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CutlayerError(f"measuring {setting.bundle} failed: {done.stderr.strip().splitlines()[-1]}")
        yield msgspec.json.decode(done.stdout, type=StepCost)


def measure_here(
    bundle: str, batch_size: str, threads: str, seconds: str, idle_s: str, energy: str, meters: str
) -> None:
    """Run in the child process: print a `StepCost` as JSON."""
    setting = Setting(Path(bundle), int(batch_size), int(threads), float(seconds), float(idle_s))
    profiler, _ = choose_profiler(Root(), read_settings(Path(meters) if meters else None), energy)
    try:
        print(msgspec.json.encode(measure_step(read_bundle(setting.bundle), setting, profiler)).decode())
    finally:
        profiler.close()


def _table(costs: Sequence[StepCost]) -> Table:
    phases = list(dict.fromkeys(name for cost in costs for name in cost.phases_ms))
    metered = any(cost.energy for cost in costs)
    table = Table(box=None, pad_edge=False)
    for head in (
        "cut",
        "batch",
        "threads",
        "ms a step",
        *phases,
        "core ms",
        "kB up",
        "MiB",
        *(["joules a step"] if metered else []),
    ):
        table.add_column(head, justify="left" if head in ("cut", "joules a step") else "right")
    for cost in costs:
        table.add_row(
            cost.cut,
            str(cost.batch_size),
            str(cost.threads or "all"),
            f"{cost.step_ms:.2f}",
            *(f"{cost.phases_ms[name]:.2f}" if name in cost.phases_ms else "" for name in phases),
            f"{cost.cpu_ms:.2f}",
            f"{cost.payload_bytes / 1e3:.1f}",
            f"{cost.rss_peak_bytes / 2**20:.0f}",
            *([str(cost.energy or "")] if metered else []),
        )
    return table


def _threads(number: int) -> str:
    return f"{number} threads" if number > 1 else "1 thread" if number else "all threads"
