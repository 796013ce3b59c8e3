"""Batch sizes on the other side of each decision that a model's code took by the size of the batch.

A trace follows one side of every ``if``. `torch.fx` notes each decision about a symbolic size as a guard, so other sizes can
be tried where the guard does not hold. A batch of one sample is no symbol's value, so it has to be tried in any case.
"""

from typing import Any

from torch.fx.experimental.symbolic_shapes import ShapeEnv

from cutlayer_core.errors import UserError

__all__ = ["sizes_decided_otherwise"]

_MOST_SAMPLES = 256
"""The largest batch that an export tries."""
_LARGER = tuple(2**power for power in range(9, 21))


def sizes_decided_otherwise(shapes: ShapeEnv) -> tuple[int, ...]:
    """For each decision, the smallest batch of at least two samples for which it goes the other way.

    Raises:
        UserError: there is one only beyond `_MOST_SAMPLES`.
    """
    found = set[int]()
    for guard in shapes.guards:
        symbols = list(guard.expr.free_symbols)
        if len(symbols) != 1:
            continue
        size = next((each for each in range(2, _MOST_SAMPLES + 1) if not _holds(guard.expr, symbols[0], each)), None)
        if size is not None:
            found.add(size)
        elif not all(_holds(guard.expr, symbols[0], each) for each in _LARGER):
            raise UserError(
                "the part before the cut decides by the size of the batch, and otherwise with more than "
                f"{_MOST_SAMPLES} samples: {guard.expr} in {guard.sloc}"
            )
    return tuple(sorted(found))


def _holds(expression: Any, symbol: Any, size: int) -> bool:
    return bool(expression.subs(symbol, size))
