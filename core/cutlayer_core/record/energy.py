"""Joules with their provenance: measured and estimated ones, or those of a board and of a wall socket, never mix."""

from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

from cutlayer_core.errors import ProvenanceError

__all__ = ["Energy", "Kind", "Scope", "column_of", "total"]

Kind: TypeAlias = Literal["measured", "estimated_calibrated", "estimated_prior", "simulated"]
"""Measured: from volts and amperes or a counter, without a model. Calibrated: from a model, or a correction of a
partial meter, that was fitted to a meter. Prior: from published coefficients. Simulated: anything read from copied
files."""
Scope: TypeAlias = Literal[
    "wall_ac", "dc_input", "module_input", "pmic_rails", "soc_rails", "cpu_package", "battery", "dc_active"
]
"""What these joules supplied. ``dc_active`` is what a task adds to an idle board's ``dc_input``."""


def column_of(kind: Kind, scope: Scope) -> str:
    """The column name for such joules; it always states both kind and scope."""
    return f"energy_{kind}_{scope}_j"


class Energy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An amount of energy. Adding or subtracting one of another kind or scope raises `ProvenanceError`.

    Bounds add up, since whatever makes one value of a meter or model wrong makes the others wrong in the same way.
    """

    energy_j: float
    low_j: float
    """Bounds: two standard deviations of a measurement, the worst case of a prior."""
    high_j: float
    kind: Kind
    scope: Scope

    def __add__(self, other: "Energy") -> "Energy":
        self._require_alike(other)
        return self._with(self.energy_j + other.energy_j, self.low_j + other.low_j, self.high_j + other.high_j)

    def __sub__(self, other: "Energy") -> "Energy":
        self._require_alike(other)
        return self._with(self.energy_j - other.energy_j, self.low_j - other.high_j, self.high_j - other.low_j)

    def __str__(self) -> str:
        about = "≈ " if self.kind.startswith("estimated") else ""
        bounds = f"{self.low_j:.3g} to {self.high_j:.3g}"
        return f"{about}{self.energy_j:.3g} J ({bounds}; {self.kind}, {self.scope})"

    @property
    def column(self) -> str:
        """See `column_of`."""
        return column_of(self.kind, self.scope)

    def _with(self, energy_j: float, low_j: float, high_j: float) -> "Energy":
        return msgspec.structs.replace(self, energy_j=energy_j, low_j=low_j, high_j=high_j)

    def _require_alike(self, other: "Energy") -> None:
        if (self.kind, self.scope) != (other.kind, other.scope):
            raise ProvenanceError(
                f"{self.kind} joules of {self.scope} and {other.kind} ones of {other.scope} are no sum: report them side by side"
            )


def total(energies: Iterable[Energy]) -> Energy | None:
    """The sum of any number of energies; None if there are none. Raises `ProvenanceError` if they are unlike."""
    whole: Energy | None = None
    for energy in energies:
        whole = energy if whole is None else whole + energy
    return whole
