"""Tables of embeddings under SGD, in which a step works on the rows that occur alone.

With momentum or weight decay all other rows change too, but each entry by itself: a step without a gradient multiplies
the pair of its momentum m and its weight w by a matrix of two by two (torch.optim.SGD with a gradient of zero; mu is
the momentum, lambda the weight decay, eta the learning rate):

    m' = mu m + lambda w
    w' = w - eta m'                  or, with Nesterov momentum, w - eta (lambda w + mu m')

So a row is brought up to date when it is next read, by the product of the matrices of all steps that it has missed.
That is exact but for rounding, also when the learning rate varies. The graphs of a step do it themselves: they get the
rows that occur as they are kept, and the entries of that product.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.trial.optimizers import Sgd

__all__ = ["OWED", "Occurrences", "Table"]

_Rows = NDArray[np.int64]
_Values = NDArray[np.float32]
_MOST_STEPS = 512
"""After so many steps all rows are brought up to date, which bounds the history."""


OWED = (("momentum-momentum", 0, 0), ("momentum-weight", 0, 1), ("weight-momentum", 1, 0), ("weight-weight", 1, 1))
"""The entries of the matrix that a row owes: of what, by how much of what, and its place there."""


class Occurrences(NamedTuple):
    """Which rows a batch of tokens has, and where; N tokens in all, R different ones.

    Attributes:
        rows: the tokens that occur, each once, in ascending order, (R,).
        positions: which of ``rows`` each token is, of the batch's shape.
        first: where in the flattened batch each row occurs first, (R,).
        rest: where tokens occur again, (N - R,).
        places: which of ``rows`` each of ``rest`` is, (N - R,).
    """

    rows: _Rows
    positions: _Rows
    first: _Rows
    rest: _Rows
    places: _Rows

    @staticmethod
    def of(tokens: NDArray[Any], most: int) -> "Occurrences":
        """Those of a batch of any shape, of tokens in 0..most - 1.

        Without sorting, which would take longer than a small step. All are int64, also on 32-bit boards, as graphs want it.
        """
        flat, places = tokens.reshape(-1), np.arange(tokens.size, dtype=np.int64)
        at = np.full(most, -1, np.int64)
        at[flat[::-1]] = places[::-1]  # of writes to one place the last counts, here that of the first occurrence
        rows = np.flatnonzero(at >= 0).astype(np.int64, copy=False)
        first = at[rows]
        at[rows] = np.arange(len(rows), dtype=np.int64)
        positions = at[flat]
        again = np.ones(tokens.size, bool)
        again[first] = False
        rest = places[again]
        return Occurrences(rows, positions.reshape(tokens.shape), first, rest, positions[rest])


class Table:
    """The weights of an embedding, and their momentum.

    Invariant: row r is as it was after step ``_done[r]``, and ``_owed[s]`` is the product of the matrices of all steps
    after s.

    Args:
        weight: (rows, width); it is changed in place.
        momentum: of the same shape, changed in place too; None if the optimizer has none.
        settings: of the optimizer; the learning rate in them is not used.
    """

    def __init__(self, weight: _Values, momentum: _Values | None, settings: Sgd) -> None:
        self.weight, self.momentum, self._settings = weight, momentum, settings
        self._done = np.zeros(len(weight), np.int64)
        self._owed = np.eye(2)[None]

    def read(self, rows: _Rows) -> None:
        """Bring these rows, each named once, up to date."""
        late = rows[self._done[rows] < len(self._owed) - 1]
        if not len(late) or not (self._settings.momentum or self._settings.weight_decay):
            return
        owed = self._owed[self._done[late]].astype(np.float32)
        weight = self.weight[late]
        self.weight[late] = owed[:, 1, 1:] * weight
        if self.momentum is not None:
            momentum = self.momentum[late]
            self.weight[late] += owed[:, 1, :1] * momentum
            self.momentum[late] = owed[:, 0, :1] * momentum + owed[:, 0, 1:] * weight
        self._done[late] = len(self._owed) - 1

    def read_all(self) -> None:
        """Bring all rows up to date."""
        self.read(np.arange(len(self.weight)))
        self._done[:], self._owed = 0, np.eye(2)[None]

    def given(self, name: str, occurring: Occurrences, padded: bool = False) -> dict[str, NDArray[Any]]:
        """What the training graphs get of the parameter ``name``, by input.

        ``padded``: for graphs that know no other size than the batch's: as many rows as tokens, of which those that do
        not occur are zero, and of all places the positions alone.
        """
        rows, size = occurring.rows, occurring.positions.size if padded else len(occurring.rows)
        places = ("positions",) if padded else ("positions", "first", "rest", "places")
        found: dict[str, NDArray[Any]] = {f"{kind}.{name}": getattr(occurring, kind) for kind in places}
        found[f"rows.params.{name}"] = _padded(self.weight.take(rows, 0), size)
        if self.momentum is not None:
            found[f"rows.state.momentum.{name}"] = _padded(self.momentum.take(rows, 0), size)
        if self._settings.momentum or self._settings.weight_decay:
            owed = _padded(self._owed[self._done[rows]].astype(np.float32), size)
            places_of = OWED if self.momentum is not None else OWED[-1:]
            found |= {f"{kind}.{name}": owed[:, i, j, None] for kind, i, j in places_of}
        return found

    def take(
        self, name: str, occurring: Occurrences, outputs: Mapping[str, Any], learning_rate: float, padded: bool = False
    ) -> None:
        """`step` with the outputs of that graph; ``padded`` as in `given`."""
        count = len(occurring.rows) if padded else None
        momentum = outputs.get(f"new_state.momentum.{name}")
        new = None if momentum is None else momentum[:count]
        self.step(occurring.rows, outputs[f"new_params.{name}"][:count], new, learning_rate)

    def step(self, rows: _Rows, weight: _Values, momentum: _Values | None, learning_rate: float) -> None:
        """Take what a step has made of these rows; all others owe that step."""
        self.weight[rows] = weight
        if self.momentum is not None:
            self.momentum[rows] = momentum
        self._owed = np.concatenate([self._without_gradient(learning_rate) @ self._owed, np.eye(2)[None]])
        self._done[rows] = len(self._owed) - 1
        if len(self._owed) > _MOST_STEPS:
            self.read_all()

    def _without_gradient(self, learning_rate: float) -> NDArray[Any]:
        mu, decay = self._settings.momentum, self._settings.weight_decay
        momentum = np.array([mu, decay])
        change = np.array([0.0, decay]) + mu * momentum if self._settings.nesterov or not mu else momentum
        return np.array([momentum, np.array([0.0, 1.0]) - learning_rate * change])


def _padded(rows: NDArray[Any], size: int) -> NDArray[Any]:
    missing = np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)
    return np.concatenate([rows, missing]) if len(missing) else rows
