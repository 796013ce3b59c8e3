"""How far results are from torch's: relative errors, and drifts, which are told from rounding by their direction."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer_core.bundles.certificate import TOLERANCE
from cutlayer_export.graph.form import Arrays
from cutlayer_export.graph.scales import least_scales

__all__ = ["Drifts", "Errors", "error_of", "errors_of", "floor_of"]

Errors = dict[str, float]
_DRIFT = 1e-3


def errors_of(found: Arrays, wanted: dict[str, Tensor], floors: Errors | None = None) -> Errors:
    """The error of each tensor in ``wanted``, whose names begin with their kind."""
    floors = floors or {}
    least = least_scales({name: float(value.detach().abs().max()) for name, value in wanted.items()})
    return {
        name: error_of(found[name], value, max(least[name], floors.get(name, 0.0))) for name, value in wanted.items()
    }


def error_of(found: NDArray[Any], wanted: Tensor, floor: float = 0.0) -> float:
    """The error relative to the greatest value of ``wanted``, or to ``floor``; infinite if it is not a number."""
    reference = wanted.detach().double().numpy()
    scale = max(float(np.abs(reference).max(initial=0.0)), floor) or 1.0
    error = float(np.abs(found.astype(np.float64) - reference).max(initial=0.0) / scale)
    return error if np.isfinite(error) else np.inf


def floor_of(rough: Tensor, exact: Tensor) -> float:
    """The least value to divide errors by, so that an error of up to four times torch's own in float32 passes."""
    return 4 / TOLERANCE * float((rough.detach().double() - exact.detach().double()).abs().max())


class Drifts:
    """The share by which each tensor is longer than torch's in float64, for each draw."""

    def __init__(self) -> None:
        self._found: dict[str, list[float]] = {}
        self._own: dict[str, list[float]] = {}

    def add(self, found: Arrays, rough: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
        """Add a draw: what a graph gave, what torch gave in float32, and what torch gave in float64."""
        for name, value in wanted.items():
            exact = value.detach().double()
            squared = float((exact * exact).sum()) or 1.0
            for drifts, other in ((self._found, torch.from_numpy(found[name])), (self._own, rough[name].detach())):
                drifts.setdefault(name, []).append(float(((other.double() - exact) * exact).sum()) / squared)

    def excess(self, name: str) -> float:
        """The mean share over all draws if it is more than is allowed, else 0."""
        drift, own = abs(float(np.mean(self._found[name]))), max(map(abs, self._own[name]))
        return drift if drift > 4 * own + _DRIFT else 0.0
