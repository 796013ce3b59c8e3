"""``cutlayer device tune``: measures, prints and keeps."""

from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_device.tuning.measurement import measure_arrangements
from cutlayer_device.tuning.tuning import OWN, Tuned, Tuning

__all__ = ["tune"]


def tune(bundle: Path, state: Path, batch_size: int, threads: int, seconds: float, as_json: bool) -> None:
    """Find the fastest arrangement of a bundle, and keep it in ``state``.

    Raises:
        UserError: the bundle is wrong, or holds one arrangement only.
        OSError: what was found cannot be written.
    """
    console, tuning = Console(stderr=as_json, highlight=False), Tuning(state)
    with console.status("reading the bundle") as status:
        found = measure_arrangements(read_bundle(bundle), batch_size, threads, seconds, status.update)
    tuning.keep(found)
    if as_json:
        print(msgspec.json.encode({"tuned": found, "choice": found.choice, "kept": str(tuning.path)}).decode())
        return
    console.print(_table(found))
    what = "the bundle's own arrangement" if found.choice == OWN else f"the arrangement {found.choice!r}"
    console.print(f"{what} is the fastest here; kept in {tuning.path}, for every run with this --state", soft_wrap=True)


def _table(found: Tuned) -> Table:
    table = Table("arrangement", "ms a step", "", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, each in found.step_ms.items():
        share = "" if name == OWN else f"{found.step_ms[OWN] / each:.2f} times as fast"
        table.add_row(name, f"{each:.2f}", share)
    return table
