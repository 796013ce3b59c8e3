"""Chooses which joules a device reports: those of its best meter, an estimate, or none, as the user wants it."""

import re
from typing import get_args

from cutlayer_core.errors import UserError
from cutlayer_core.record.energy import Kind
from cutlayer_profiles.coefficients import Board, board_named, board_of
from cutlayer_profiles.meters import Finding, Meter, Root, Settings, find_meters
from cutlayer_profiles.profiler import Profiler

__all__ = ["choose_profiler"]

_CHOICES = "auto, none, require=measured, require=estimated_calibrated, require=estimated_prior"


def choose_profiler(root: Root, settings: Settings, energy: str) -> tuple[Profiler, str]:
    """A profiler of this machine, and a text that tells people where its joules come from.

    Args:
        root: where the machine is read.
        settings: what the user says of its meters.
        energy: ``auto`` for the best there is, ``none``, or ``require=KIND`` to have that kind or fail.

    Raises:
        UserError: ``energy`` is none of these, or what it requires is not there; the text says what was looked for.
    """
    required = re.fullmatch(r"require=(\w+)", energy)
    if energy not in ("auto", "none") and (required is None or required[1] not in get_args(Kind)):
        raise UserError(f"--energy: found {energy!r}, allowed: {_CHOICES}")
    if energy == "none":
        return Profiler(root), "no energy, as asked"
    findings = find_meters(root, settings)
    meter = _best([found.meter for found in findings if found.meter], required[1] if required else "")
    if meter is not None:
        return Profiler(root, meter), f"{meter.name} ({meter.kind}, {meter.scope})"
    board = _board(root, settings, findings, asked=required is not None)
    if board is not None and (required is None or required[1] == board.kind):
        return Profiler(root, board=board), f"≈ coefficients of {board.name} ({board.kind}, dc_input)"
    if required:
        raise UserError(f"--energy: {energy} cannot be had here: {_reasons(findings)}")
    return Profiler(root), f"no energy: {_reasons(findings)}"


def _best(meters: list[Meter], kind: str) -> Meter | None:
    return next((meter for meter in meters if not kind or meter.kind == kind), None)


def _board(root: Root, settings: Settings, findings: list[Finding], *, asked: bool) -> Board | None:
    """The board to estimate by; None if there is an unusable meter, which an estimate may replace only if asked for."""
    if settings.board:
        return board_named(settings.board)
    if not asked and any(found.status in ("denied", "unfit") for found in findings):
        return None
    return board_of(root)


def _reasons(findings: list[Finding]) -> str:
    """Why no meter can be used, or that there is none at all."""
    found = "; ".join(f"{each.probe}: {each.detail}" for each in findings if each.status in ("denied", "unfit"))
    return f"{found or 'no meter, and no coefficients of this machine'}; `cutlayer doctor` says more"
