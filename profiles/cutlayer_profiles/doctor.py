"""``cutlayer doctor``: what this machine is like, which meters it has, and what to do about what is missing."""

import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cutlayer_core.errors import CutlayerError
from cutlayer_profiles.capture import capture as capture_board
from cutlayer_profiles.checks import BrokerAddress, Check, check_machine
from cutlayer_profiles.coefficients import board_of
from cutlayer_profiles.meters import Finding, Root, Settings, find_meters, read_settings

__all__ = ["doctor"]

_COLOURS = {"ok": "green", "found": "green", "absent": "dim", "warning": "yellow"}
"""Of a status; what is not here is trouble, and red."""


def doctor(
    meters: Path | None,
    capture: Path | None,
    as_json: bool,
    broker: BrokerAddress = BrokerAddress(),  # noqa: B008 - it cannot be changed
    root: Root | None = None,
) -> None:
    """Print a line a check and a line a meter.

    Raises:
        UserError: for the settings, the folder, or the certificates.
        OSError: the capture cannot be written.
        CutlayerError: something prevents any trial from here; everything was printed before.
    """
    root = root or Root()
    settings = read_settings(meters)
    checks, findings = check_machine(root, broker, Path.cwd()), find_meters(root, settings)
    if as_json:
        machine = [check._asdict() for check in checks]
        print(msgspec.json.encode({"this_machine": machine, "meters": [_plain(each) for each in findings]}).decode())
    else:
        _show(checks, findings)
        Console(highlight=False).print(Text(_verdict(root, settings, findings)), soft_wrap=True)
    if capture is not None:
        number = capture_board(root, capture)
        print(f"{number} files in {capture}: look at them, then send them as a .tar.gz with an issue", file=sys.stderr)
    if failed := [check.what for check in checks if check.status == "failed"]:
        raise CutlayerError(f"doctor: no trial can run from here before this is mended: {', '.join(failed)}")


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


def _show(checks: list[Check], findings: list[Finding]) -> None:
    console = Console(highlight=False)
    machine = [(check.what, check.status, check.found, check.advice) for check in checks]
    meters = [(finding.probe, finding.status, finding.detail, finding.mend) for finding in findings]
    console.print(_table("this machine", machine))
    console.print()
    console.print(_table("meters", meters))


def _table(title: str, rows: Iterable[tuple[str, str, str, str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for head in ("what", "status", "found", "advice"):
        table.add_column(head, overflow="fold")
    for what, status, found, advice in rows:
        table.add_row(Text(what), Text(status, _COLOURS.get(status, "red")), Text(found), Text(advice))
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
