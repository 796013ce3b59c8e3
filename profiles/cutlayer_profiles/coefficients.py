"""Estimates what a board without a meter draws, by coefficients and always with bounds."""

from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from cutlayer_core.errors import UserError
from cutlayer_core.record.energy import Energy, Kind, Scope
from cutlayer_core.trial import toml
from cutlayer_profiles.meters import Root

__all__ = ["Activity", "Board", "Coefficient", "board_named", "board_of", "boards", "corners", "estimate"]

_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_WIDER = 1.5


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table in which unknown keys are an error."""


class Coefficient(_Table, frozen=True):
    """A number with its bounds and its source."""

    value: _NotNegative
    low: _NotNegative
    high: _NotNegative
    source: str


class Board(_Table, frozen=True):
    """A board's file of coefficients, at its 5 V input."""

    name: str
    models: tuple[str, ...]
    """What ``/proc/device-tree/model`` of such boards begins with."""
    cores: int
    idle_w: Coefficient
    core_w: Coefficient
    """What each busy core adds."""
    sent_j_mb: Coefficient
    """What each megabyte (1e6 bytes) sent by Wi-Fi adds to an idle, associated radio."""
    received_j_mb: Coefficient
    kind: Literal["estimated_prior", "estimated_calibrated"] = "estimated_prior"


class Activity(NamedTuple):
    """What was measured: seconds, seconds of busy cores, and bytes."""

    seconds: float
    busy_core_s: float
    sent_bytes: float
    received_bytes: float


def boards() -> dict[str, Board]:
    """Every board that comes with cutlayer, by the name of its file."""
    folder = Path(str(files("cutlayer_profiles") / "boards"))
    return {path.stem: toml.read(path, Board) for path in sorted(folder.glob("*.toml"))}


def board_named(name: str) -> Board:
    """The board whose file has this name, or that of a file of the user's own. Raises `UserError`."""
    known = boards()
    if name in known:
        return known[name]
    if not name.endswith(".toml"):
        raise UserError(f"board: found {name!r}, allowed: {', '.join(known)}, or a TOML file like theirs")
    return toml.read(Path(name), Board)


def board_of(root: Root) -> Board | None:
    """The coefficients of the machine that we run on; None if there are none for it."""
    try:
        model = root.read("proc/device-tree/model")
    except OSError:
        return None
    return next((board for board in boards().values() if model.startswith(board.models)), None)


def corners(board: Board) -> Iterator[Board]:
    """Boards with every coefficient at one of its bounds: whatever is monotonic in each is worst at one of these."""
    names = ("idle_w", "core_w", "sent_j_mb", "received_j_mb")
    for bounds in product(("low", "high"), repeat=len(names)):
        ends = {name: getattr(getattr(board, name), bound) for name, bound in zip(names, bounds, strict=True)}
        yield msgspec.structs.replace(
            board, **{name: msgspec.structs.replace(getattr(board, name), value=end) for name, end in ends.items()}
        )


def estimate(
    board: Board, activity: Activity, *, throttled: bool = False, simulated: bool = False
) -> tuple[Energy, Energy]:
    """Joules of the whole time at the input, and the part of them that the activity added to an idle board.

    E = P_idle t + P_core t_busy + e_sent MB_sent + e_received MB_received. The bounds are those of the worst case,
    since nothing says that the errors of the coefficients are independent.

    Args:
        board: gives the coefficients.
        activity: what was measured.
        throttled: whether the clock changed; the bounds are then half as wide again.
        simulated: whether the activity was read from copied files.
    """
    parts = (
        (board.core_w, activity.busy_core_s),
        (board.sent_j_mb, activity.sent_bytes / 1e6),
        (board.received_j_mb, activity.received_bytes / 1e6),
    )
    kind: Kind = "simulated" if simulated else board.kind
    active = _sum(parts, kind, "dc_active", throttled)
    return _sum([(board.idle_w, activity.seconds), *parts], kind, "dc_input", throttled), active


def _sum(parts: Sequence[tuple[Coefficient, float]], kind: Kind, scope: Scope, wide: bool) -> Energy:
    middle = sum(coefficient.value * amount for coefficient, amount in parts)
    low = sum(coefficient.low * amount for coefficient, amount in parts)
    high = sum(coefficient.high * amount for coefficient, amount in parts)
    factor = _WIDER if wide else 1.0
    low, high = middle - factor * (middle - low), middle + factor * (high - middle)
    return Energy(energy_j=middle, low_j=max(low, 0.0), high_j=high, kind=kind, scope=scope)
