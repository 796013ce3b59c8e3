"""Where the time of an epoch goes."""

import time
from collections import defaultdict
from collections.abc import Callable

__all__ = ["Phases"]


class Phases:
    """Seconds by phase. Phases do not nest, so their sum is never more than the time that passed.

    Args:
        clock: returns seconds.
        mark: called with each phase's name, begin and end.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        mark: Callable[[str, float, float], None] = lambda name, began, ended: None,
    ) -> None:
        self._clock, self._mark = clock, mark
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def __call__(self, name: str) -> "_Phase":
        """A context manager that adds what happens inside to the phase ``name``."""
        return _Phase(name, self._clock, self._end)

    def add(self, seconds: dict[str, float]) -> None:
        """Count time that was measured elsewhere."""
        for name, spent in seconds.items():
            self._seconds[name] += spent

    def mark(self, name: str, began: float, ended: float) -> None:
        """Report a phase without counting it: its time is counted under other names, by `add`."""
        self._mark(name, began, ended)

    def so_far(self) -> dict[str, float]:
        """Seconds of each phase since the last `take`."""
        return dict(self._seconds)

    def take(self) -> dict[str, float]:
        """Seconds of each phase since the last call; starts over."""
        seconds = self.so_far()
        self._seconds.clear()
        return seconds

    def _end(self, name: str, began: float, ended: float) -> None:
        self._seconds[name] += ended - began
        self._mark(name, began, ended)


class _Phase:
    """One use of a phase; a class, because a step has five and a generator for each is slower."""

    __slots__ = ("_began", "_clock", "_end", "_name")

    def __init__(self, name: str, clock: Callable[[], float], end: Callable[[str, float, float], None]) -> None:
        self._name, self._clock, self._end = name, clock, end

    def __enter__(self) -> None:
        self._began = self._clock()

    def __exit__(self, *_: object) -> None:
        self._end(self._name, self._began, self._clock())
