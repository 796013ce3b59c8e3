"""``cutlayer doctor``: what every probe found, and what to do about what it did not."""

import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cutlayer_profiles.capture import capture as capture_board
from cutlayer_profiles.coefficients import board_of
from cutlayer_profiles.meters import Finding, Root, Settings, find_meters, read_settings

__all__ = ["doctor"]


def doctor(meters: Path | None, capture: Path | None, as_json: bool, root: Root | None = None) -> None:
    """Print a line a probe. Raises `UserError` for the settings or the folder, `OSError` if that cannot be written."""
    root = root or Root()
    settings = read_settings(meters)
    findings = find_meters(root, settings)
    if as_json:
        print(msgspec.json.encode([_plain(finding) for finding in findings]).decode())
    else:
        console = Console(highlight=False)
        console.print(_table(findings))
        console.print(Text(_verdict(root, settings, findings)), soft_wrap=True)
    if capture is not None:
        number = capture_board(root, capture)
        print(f"{number} files in {capture}: look at them, then send them as a .tar.gz with an issue", file=sys.stderr)


def _plain(finding: Finding) -> dict[str, str | float]:
    plain: dict[str, str | float] = {
        "probe": finding.probe,
        "status": finding.status,
        "detail": finding.detail,
        "mend": finding.mend,
    }
    if finding.meter is not None:
        meter = finding.meter
        plain |= {"meter": meter.name, "kind": meter.kind, "scope": meter.scope, "period_s": meter.period_s}
    return plain


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in ("probe", "status", "what was seen", "what to do"):
        table.add_column(head, overflow="fold")
    colours = {"found": "green", "denied": "red", "unfit": "red", "absent": "dim"}
    for finding in findings:
        colour = colours[finding.status]
        table.add_row(Text(finding.probe), Text(finding.status, colour), Text(finding.detail), Text(finding.mend))
    return table


def _verdict(root: Root, settings: Settings, findings: list[Finding]) -> str:
    """What a trial on this board would report."""
    meter = next((finding.meter for finding in findings if finding.meter), None)
    if meter is not None:
        return f"a trial here reports joules of {meter.name}: {meter.kind}, {meter.scope}"
    trouble = any(finding.status in ("denied", "unfit") for finding in findings)
    board = board_of(root)
    if trouble and not settings.board:
        return (
            "a trial here reports no joules until that is mended, or the file of --meters names a board to estimate by"
        )
    if board is None and not settings.board:
        return "a trial here reports no joules: there is no meter, and there are no coefficients of this machine"
    name = settings.board or (board.name if board else "")
    return f"a trial here reports ≈ joules, estimated by the coefficients of {name}"
