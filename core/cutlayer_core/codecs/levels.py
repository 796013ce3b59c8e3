"""How many levels each column of a matrix gets, so that the error is least for a given bit budget.

SplitFC (Oh et al., arXiv 2307.10805) minimises a bound on the squared error plus ``nu`` times the bits. For a column of
range a quantized with Q levels the optimum is the root above 1 of

    (Q - 1)**3 = u Q        with u = a**2 ln 2 / (2 nu)

which has a closed form. Both sides must arrive at the same whole number, however their maths libraries round. So the
closed form only says where to look; products, which IEEE 754 rounds alike everywhere, decide.
"""

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.codecs.radix import MAX_RADIX

__all__ = ["optimal_levels", "whole_levels"]

_Floats = NDArray[np.float64]
_SIGNIFICANT_BITS = 5
_BRANCH = 27 / 4
"""Where the radicand of Cardano's formula becomes negative, and the cubic has three real roots."""


def optimal_levels(u: _Floats) -> _Floats:
    """The real Q above 1 with ``(Q - 1)**3 = u Q``, for u of 0 or more."""
    low = np.minimum(u, _BRANCH)
    v = np.cbrt(9 * low + low * np.sqrt(81 - 12 * low))
    safe = np.maximum(v, np.finfo(np.float64).tiny)
    cardano = 1 + (2 / 3) ** (1 / 3) * low / safe + v / (2 ** (1 / 3) * 3 ** (2 / 3))
    high = np.maximum(u, _BRANCH)
    trigonometric = 1 + 2 * np.sqrt(high / 3) * np.cos(np.arccos(1.5 * np.sqrt(3 / high)) / 3)
    levels: _Floats = np.where(u <= _BRANCH, cardano, trigonometric)
    return levels


def whole_levels(u: _Floats) -> NDArray[np.int64]:
    """The optimum, rounded down to a whole number from 2 to `MAX_RADIX`; the same on every machine.

    Only its five leading bits are kept, so that a matrix has no more than about two hundred different values.
    """
    bounded = np.minimum(u, float(MAX_RADIX) ** 2)
    levels = np.floor(optimal_levels(bounded))
    levels += _reaches(levels + 1, bounded)
    levels -= ~_reaches(levels, bounded)
    whole = np.clip(levels, 2, MAX_RADIX).astype(np.int64)
    step = 1 << np.maximum(np.frexp(whole)[1] - _SIGNIFICANT_BITS, 0)
    coarse: NDArray[np.int64] = whole // step * step
    return coarse


def _reaches(levels: _Floats, u: _Floats) -> NDArray[np.bool_]:
    """Whether the optimum is at least ``levels``."""
    below = levels - 1
    reached: NDArray[np.bool_] = below * below * below <= u * levels
    return reached
