"""The embedding tables of a bundle, of which a step gets the rows that occur in its batch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.bundles.bundle import Manifest
from cutlayer_core.errors import UserError
from cutlayer_core.tables import Occurrences, Table
from cutlayer_core.trial.optimizers import Sgd

__all__ = ["Tables"]

_Arrays = dict[str, NDArray[Any]]


class Tables:
    """Keeps the tables, and gives and takes the rows of a batch.

    Args:
        manifest: of the bundle.
        arrays: values by graph input name; those of the tables are changed in place.
        padded: see `Table.given`.

    Raises:
        UserError: the manifest names a table that the bundle does not have, or that its optimizer cannot train by rows.
    """

    def __init__(self, manifest: Manifest, arrays: _Arrays, padded: bool = False) -> None:
        settings, params = manifest.client.optimizer, manifest.client.params
        if manifest.tables and (not isinstance(settings, Sgd) or not params.keys() >= set(manifest.tables)):
            raise UserError("the bundle's manifest names a table that it does not train by SGD: export it again")
        self._padded = padded
        self._tables: dict[str, Table] = {}
        for name in manifest.tables:
            assert isinstance(settings, Sgd)
            self._tables[name] = Table(arrays[f"params.{name}"], arrays.get(f"state.momentum.{name}"), settings)
        self._least = min((len(table.weight) for table in self._tables.values()), default=0)
        self._occurring = Occurrences.of(np.zeros(0, np.int64), 0)

    def read(self, x: NDArray[Any]) -> None:
        """Bring the rows of these tokens up to date. Raises `UserError` if one has no row."""
        if self._tables:
            self._require(x)
            rows = np.unique(x)
            for table in self._tables.values():
                table.read(rows)

    def occur(self, x: NDArray[Any]) -> _Arrays:
        """Begin a step with these tokens: what the training graphs get, by input name. Raises as `read` does."""
        if not self._tables:
            return {}
        self._require(x)
        self._occurring = occurring = Occurrences.of(x, self._least)
        found: _Arrays = {}
        for name, table in self._tables.items():
            found |= table.given(name, occurring, self._padded)
        return found

    def _require(self, tokens: NDArray[Any]) -> None:
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self._least):
            raise UserError(f"found a token outside of 0..{self._least - 1}, the rows of the embedding")

    def take(self, outputs: Mapping[str, Any], learning_rate: float) -> None:
        """Take what backward has made of the step's rows; ``outputs`` by name."""
        for name, table in self._tables.items():
            table.take(name, self._occurring, outputs, learning_rate, self._padded)

    def finish(self) -> None:
        """Bring all rows up to date, before somebody reads whole tables."""
        for table in self._tables.values():
            table.read_all()
