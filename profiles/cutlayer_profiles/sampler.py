"""A thread that reads a meter, ten times a second unless the meter is slower."""

import re
import threading
import time
from collections.abc import Callable

import numpy as np

from cutlayer_profiles.curve import Samples
from cutlayer_profiles.meters import Meter

__all__ = ["Sampler"]

_SLOW_SHARE = 0.5
_TRIES = 3
_MOST_SAMPLES = 200_000
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_MOST_LETTERS = 200


class Sampler:
    """Reads a meter until it is stopped; a reading that fails is left out, and its problem noted.

    The moment of a reading is the middle of the time that it took or, for a meter that reports by itself, when it did
    so. A reading that took more than half a period is left out, since its moment is too uncertain.

    Args:
        meter: is read in this thread only, and once more for each `take`.
        clock: the clock on which phases are marked.
        wait: waits so many seconds for the next reading; returns True to end.
    """

    def __init__(
        self,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._meter, self._clock = meter, clock
        self._ended = threading.Event()
        self._wait = wait or self._ended.wait
        self._lock = threading.Lock()
        self._at_s: list[float] = []
        self._values: list[float] = []
        self._problems: dict[str, int] = {}
        self._cpu_s = 0.0
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    def start(self) -> None:
        """Start reading; the first reading is taken before this returns."""
        self._insist()
        self._thread.start()

    def stop(self) -> None:
        """Wait for the thread's end."""
        self._ended.set()
        self._thread.join()

    def take(self) -> tuple[Samples, dict[str, int], float]:
        """The readings since the last call, from the last one of that call to a new one.

        Returns:
            The samples, how often each problem occurred, and the core seconds that reading took.
        """
        self._insist()
        with self._lock:
            samples = Samples(np.array(self._at_s), np.array(self._values), self._meter.counts)
            problems, cpu_s = self._problems, self._cpu_s
            self._at_s, self._values = self._at_s[-1:], self._values[-1:]
            self._problems, self._cpu_s = {}, 0.0
        return samples, problems, cpu_s

    def _run(self) -> None:
        due = self._clock()
        while True:
            self._sample()
            due = max(due + self._meter.period_s, self._clock())  # missed readings are not made up for
            if self._wait(due - self._clock()):
                return

    def _insist(self) -> None:
        """Take a reading now, trying several times: the edge of an interval depends on it."""
        any(self._sample() for _ in range(_TRIES))

    def _sample(self) -> bool:
        """Read once; returns whether there is a new reading."""
        with self._lock:
            spent = time.thread_time()
            began = self._clock()
            try:
                value = self._meter.read()
            except (OSError, ValueError) as error:
                self._note(str(error))
            else:
                ended = self._clock()
                if ended - began > _SLOW_SHARE * self._meter.period_s:
                    self._note(f"{self._meter.name} took more than half a period")
                    return False
                at_s = self._meter.told_at_s or (began + ended) / 2
                if not self._at_s or at_s > self._at_s[-1]:
                    self._at_s.append(at_s)
                    self._values.append(value)
                    if len(self._at_s) > _MOST_SAMPLES:  # after hours without a report
                        self._at_s, self._values = self._at_s[::2], self._values[::2]
                    return True
            finally:
                self._cpu_s += time.thread_time() - spent
        return False

    def _note(self, problem: str) -> None:
        """Count a problem by its text without numbers, which differ each time."""
        kind = _NUMBER.sub("#", problem)[:_MOST_LETTERS]
        self._problems[kind] = self._problems.get(kind, 0) + 1
