"""Where the time of an epoch goes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Phases"]


class Phases:
    """Seconds by phase. Phases do not nest, so their sum is never more than the time that passed."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add what happens inside to the phase ``name``."""
        start = self._clock()
        try:
            yield
        finally:
            self._seconds[name] += self._clock() - start

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
