"""``cutlayer report``."""

from pathlib import Path

import msgspec

from cutlayer_core.record.record import read_run
from cutlayer_profiles.report.page import write_report

__all__ = ["report"]


def report(run_dir: Path, as_json: bool) -> None:
    """Write the page and say where it is. Raises `UserError` if there is no run record."""
    run = read_run(run_dir)
    path = write_report(run_dir)
    print(msgspec.json.encode(run.summary).decode() if as_json else f"report: {path}")
