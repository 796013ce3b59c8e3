"""Where the time of an epoch goes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Phases"]


class Phases:
    """Seconds by phase. Phases do not nest, so their sum is never more than the time that passed.

    Args:
        clock: gives seconds.
        mark: told of each phase, when it began and when it ended.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        mark: Callable[[str, float, float], None] = lambda name, began, ended: None,
    ) -> None:
        self._clock, self._mark = clock, mark
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add what happens inside to the phase ``name``."""
        start = self._clock()
        try:
            yield
        finally:
            ended = self._clock()
            self._seconds[name] += ended - start
            self._mark(name, start, ended)

    def add(self, seconds: dict[str, float]) -> None:
        """Count time that was measured elsewhere."""
        for name, spent in seconds.items():
            self._seconds[name] += spent

    def so_far(self) -> dict[str, float]:
        """Seconds of each phase since the last `take`."""
        return dict(self._seconds)

    def take(self) -> dict[str, float]:
        """Seconds of each phase since the last call; starts over."""
        seconds = self.so_far()
        self._seconds.clear()
        return seconds
