"""Power recorded by another program: the CSV file of a lab instrument, or a log of ``tegrastats``."""

import csv
import re
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cutlayer_core.errors import UserError
from cutlayer_core.record.energy import Kind, Scope
from cutlayer_profiles.curve import Curve, Samples
from cutlayer_profiles.meters import Accuracy

__all__ = ["Recording", "read_csv", "read_recording", "read_tegrastats"]

_HEAD = re.compile(r"^(?P<name>.*?)(?:\s*[(\[](?P<unit>\w+)[)\]]|_(?P<tail>[mu]?s|m?v|[mu]?a|[mu]?w))?$")
_TIME = ("t", "time", "timestamp")
_VOLT = ("v", "volt", "voltage", "main voltage")
_AMPERE = ("a", "i", "amp", "current", "main current")
_WATT = ("w", "p", "watt", "power", "main power")
_UNITS = {
    "": 1.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    **{
        f"{prefix}{unit}": factor
        for prefix, factor in (("", 1.0), ("m", 1e-3), ("u", 1e-6), ("µ", 1e-6))
        for unit in "vaw"
    },
}
_RAIL = re.compile(r"\b(POM_5V_IN|VDD_IN|VIN) (\d+)(?:mW)?/")
_STAMP = re.compile(r"^(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d) ")


class Recording(NamedTuple):
    """The power of one device over a run, on the run record's clock, as another program recorded it.

    It serves as the `Source` of its energies: measured, with an error of one percent.
    """

    curve: Curve
    scope: Scope
    kind: Kind = "measured"
    accuracy: Accuracy = Accuracy(gain=0.01)
    counts: bool = False


def read_recording(path: Path, offset_s: float, interval_s: float | None = None) -> Recording:
    """Read a log of ``tegrastats``, or else a CSV file.

    Args:
        path: the file to read.
        offset_s: added to the times of a CSV file, or where a log begins, to get seconds since the run began.
        interval_s: time between the lines of a log without times.

    Raises:
        UserError: as in `read_csv`, `read_tegrastats` and `Curve`.
    """
    try:
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    scope: Scope = "dc_input"
    if _RAIL.search(text):
        samples, scope = read_tegrastats(text.splitlines(), interval_s), "module_input"
        samples = samples._replace(at_s=samples.at_s - samples.at_s[0] + offset_s)
    else:
        samples = read_csv(path, offset_s)
    return Recording(Curve(samples, _period_s(samples)), scope)


def _period_s(samples: Samples) -> float:
    return float(np.median(np.diff(samples.at_s))) if len(samples.at_s) > 1 else 0.0


def read_csv(path: Path, offset_s: float = 0.0) -> Samples:
    """Read time and watts, or volts and amperes, as the tools of Joulescope, Otii and Monsoon export them.

    Columns are recognised by their headers, which may contain a unit: ``time (s)``, ``t_ms``, ``Main Current (mA)``;
    without one it is s, V, A, W. Times may be ISO 8601, and are taken as UTC if they have no zone.

    Args:
        path: a file with one header line.
        offset_s: added to the times, to make them those of the board's clock.

    Raises:
        UserError: names the column or the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    heads = [head.strip().lower() for head in rows[0]] if rows else []
    time = _column(heads, _TIME)
    watt, volt, ampere = (_column(heads, pattern) for pattern in (_WATT, _VOLT, _AMPERE))
    if time is None or (watt is None and (volt is None or ampere is None)):
        raise UserError(
            f"{path}: found the columns {', '.join(heads) or 'none'}, allowed: time, and power, or voltage and current"
        )
    at_s, power_w = [], []
    for number, row in enumerate(rows[1:], 2):
        try:
            at_s.append(_moment(row[time[0]]) * time[1] + offset_s)
            if watt is not None:
                power_w.append(float(row[watt[0]]) * watt[1])
            else:
                assert volt is not None
                assert ampere is not None
                power_w.append(float(row[volt[0]]) * volt[1] * float(row[ampere[0]]) * ampere[1])
        except (ValueError, IndexError) as error:
            raise UserError(f"{path}: line {number}: {error}") from error
    return Samples(np.array(at_s), np.array(power_w))


def _column(heads: list[str], names: tuple[str, ...]) -> tuple[int, float] | None:
    """The index of the first column whose header fits, and the factor from its unit to that without a prefix."""
    for place, head in enumerate(heads):
        match = _HEAD.match(head)
        assert match is not None
        unit = match["unit"] or match["tail"] or ""
        if match["name"].replace("_", " ").strip() in names:
            if unit not in _UNITS:
                raise UserError(f"the column {head!r}: found the unit {unit!r}, allowed: {', '.join(_UNITS)}")
            return place, _UNITS[unit]
    return None


def _moment(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def read_tegrastats(lines: Iterable[str], interval_s: float | None = None) -> Samples:
    """Read the module's rail from a log of ``tegrastats``, in any of its dialects.

    In ``VDD_IN 5704mW/5704mW`` the first number is the power now, and the second its mean since the program started.

    Args:
        lines: lines of the log.
        interval_s: time between them, for logs without times (JetPack 4); those with times have whole seconds.

    Raises:
        UserError: no line has such a rail, or there are neither times nor an interval.
    """
    at_s: list[float] = []
    power_w: list[float] = []
    for line in lines:
        rail = _RAIL.search(line)
        if rail is None:
            continue
        stamp = _STAMP.match(line)
        if interval_s is not None:
            at_s.append(len(at_s) * interval_s)
        elif stamp is not None:
            moment = datetime.strptime(stamp[1], "%m-%d-%Y %H:%M:%S").replace(tzinfo=timezone.utc)
            at_s.append(moment.timestamp())
        else:
            raise UserError("this log of tegrastats has no times: say how far apart its lines are")
        power_w.append(float(rail[2]) / 1e3)
    if not power_w:
        raise UserError(
            "no line has one of the rails POM_5V_IN, VDD_IN, VIN: an AGX Orin has no rail for the whole module"
        )
    return Samples(np.array(at_s), np.array(power_w))
