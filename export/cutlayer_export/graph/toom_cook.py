"""The matrices of Winograd's convolution F(4, 3), by the algorithm of Toom and Cook: Lavin and Gray, arXiv 1509.09308."""

import math
from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["KERNEL", "PATCH", "TILE", "Matrices", "matrices"]

TILE, KERNEL = 4, 3
PATCH = TILE + KERNEL - 1
"""Entries along one axis of a tile of results, of the kernel, and of the patch that a tile is computed from."""
_POINTS = (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2))
"""Where polynomials are evaluated, besides infinity.

With the customary points 0, 1, -1, 2 and -2 the error is twice as great.
"""


class Matrices(NamedTuple):
    """For one axis: from a patch (6, 6), from a kernel (6, 3), back to a tile (4, 6)."""

    patch: NDArray[np.float64]
    kernel: NDArray[np.float64]
    back: NDArray[np.float64]


@cache
def matrices() -> Matrices:
    """The matrices, exact but for their rounding to float64."""
    back = [[point**power for point in _POINTS] + [int(power == TILE - 1)] for power in range(TILE)]
    kernel: list[list[Any]] = []
    patch: list[list[Any]] = []
    for point in _POINTS:
        others = [each for each in _POINTS if each != point]
        scale = math.prod(point - other for other in others)
        kernel.append([point**power / scale for power in range(KERNEL)])
        patch.append([*_polynomial(others), 0])
    kernel.append([0] * (KERNEL - 1) + [1])
    patch.append(_polynomial(_POINTS))
    return Matrices(*(np.array(each, np.float64) for each in (patch, kernel, back)))


def _polynomial(roots: Iterable[Fraction]) -> list[Fraction]:
    """Coefficients of the product of all ``x - root``, the constant one first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*(root * each for each in coefficients), Fraction(0)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients
