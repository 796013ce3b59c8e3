"""Runs training graphs that take rows of tables as a board does, for the certificate."""

from collections.abc import Sequence

from cutlayer_core.tables import Occurrences, Table
from cutlayer_core.trial.optimizers import Sgd
from cutlayer_export.graph.form import Arrays, Run

__all__ = ["WithRows"]


class WithRows:
    """Gives the rows that occur, and brings all others up to date at once.

    Args:
        run: a training graph.
        tables: names of parameters.
        settings: of the optimizer.
        padded: see `Table.given`.
    """

    def __init__(self, run: Run, tables: Sequence[str], settings: Sgd, padded: bool = False) -> None:
        self._run, self._names, self._settings, self._padded = run, tables, settings, padded

    def __call__(self, values: Arrays) -> Arrays:
        """Outputs by name, of whole tables; ``values`` has whole tables, too."""
        least = min(len(values[f"params.{name}"]) for name in self._names)
        occurring, given, tables = Occurrences.of(values["x"], least), dict(values), dict[str, Table]()
        for name in self._names:
            momentum = values.get(f"state.momentum.{name}")
            weight = values[f"params.{name}"].copy()
            table = tables[name] = Table(weight, None if momentum is None else momentum.copy(), self._settings)
            given |= table.given(name, occurring, self._padded)
        found = self._run(given)
        for name, table in tables.items():
            if f"new_params.{name}" not in found:  # forward
                continue
            table.take(name, occurring, found, float(values["learning_rate"]), self._padded)
            table.read_all()
            found[f"new_params.{name}"] = table.weight
            if table.momentum is not None:
                found[f"new_state.momentum.{name}"] = table.momentum
        return found
