"""Operations on constants, computed while a graph is built."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["folded"]

_KNOWN: dict[str, Callable[..., Any]] = {
    "ABS": np.abs, "ADD": np.add, "DIV": np.divide, "EQUAL": np.equal, "FLOOR": np.floor, "GREATER": np.greater,
    "GREATER_EQUAL": np.greater_equal, "LESS": np.less, "LESS_EQUAL": np.less_equal, "LOGICAL_AND": np.logical_and,
    "LOGICAL_NOT": np.logical_not, "LOGICAL_OR": np.logical_or, "MAXIMUM": np.maximum, "MINIMUM": np.minimum,
    "MUL": np.multiply, "NEG": np.negative, "NOT_EQUAL": np.not_equal, "SELECT_V2": np.where, "SQRT": np.sqrt,
    "SUB": np.subtract,
}  # fmt: skip


def folded(kind: str, inputs: Sequence[Any], options: dict[str, Any]) -> NDArray[Any] | None:
    """The result of an operation if all its inputs are constants and it is one that is computed here, else None."""
    values: list[Any] = [None if each is None else each.data for each in inputs]
    if any(value is None for value in values):
        return None
    if kind == "CAST":
        return np.asarray(values[0]).astype(options["target"])
    if kind == "RSQRT":
        return np.asarray(1 / np.sqrt(np.asarray(values[0], np.float64)))
    if kind in _KNOWN:
        return np.asarray(_KNOWN[kind](*values))
    if kind == "STRIDED_SLICE":
        return _sliced(*values, ends=options["ends"])
    if kind == "REVERSE_V2":
        return np.asarray(np.flip(values[0], int(values[1][0])))
    return None


def _sliced(x: Any, starts: Any, stops: Any, steps: Any, *, ends: int) -> NDArray[Any]:
    bounds = zip(starts, stops, steps, strict=True)
    cut = tuple(
        slice(start, None if ends >> axis & 1 else stop, step) for axis, (start, stop, step) in enumerate(bounds)
    )
    return np.asarray(x[cut])
