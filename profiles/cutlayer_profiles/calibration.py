"""A board's own coefficients, from a meter: what it draws idle, for each busy core, and for each megabyte."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from cutlayer_core.errors import UserError
from cutlayer_core.record.usage import Usage
from cutlayer_profiles.coefficients import Activity, Board, Coefficient

__all__ = ["Stretch", "calibrate", "fit", "plan_of"]

_FEWEST = 4


class Stretch(NamedTuple):
    """What was done for a while, and the joules that the meter counted meanwhile."""

    activity: Activity
    energy_j: float


class Load(NamedTuple):
    """How many cores are busy, and whether bytes are sent as well."""

    name: str
    busy_cores: int
    sends: bool = False


def plan_of(cores: int, *, sends: bool) -> list[Load]:
    """Idle, one to all cores busy, sending, and idle again, which shows whether the board drifted."""
    loads = [Load("idle", 0), *(Load(f"{number} busy", number) for number in range(1, cores + 1))]
    return [*loads, *([Load("sending", 0, sends=True)] if sends else []), Load("idle again", 0)]


def fit(stretches: Sequence[Stretch], prior: Board, name: str, source: str) -> Board:
    """Coefficients by least squares, with bounds of two standard errors; those not measured are the prior's.

    Args:
        stretches: at least four, of different activity.
        prior: gives what cannot be fitted.
        name: name of the board.
        source: says where the numbers come from.

    Raises:
        UserError: there are too few stretches, or their activity was the same, or the board draws less when it is busy.
    """
    activity = np.array([stretch.activity for stretch in stretches], np.float64)
    joules = np.array([stretch.energy_j for stretch in stretches])
    sends = bool(activity[:, 2].max(initial=0.0) > 1e6)
    columns = activity[:, :3] / (1, 1, 1e6) if sends else activity[:, :2]
    if len(stretches) < max(_FEWEST, columns.shape[1] + 1) or np.linalg.matrix_rank(columns) < columns.shape[1]:
        raise UserError(f"{len(stretches)} stretches of this activity decide nothing: measure idle and busy ones")
    found, *_ = np.linalg.lstsq(columns, joules, rcond=None)
    freedom = len(joules) - columns.shape[1]
    variance = float(np.square(columns @ found - joules).sum()) / freedom
    errors = np.sqrt(np.diag(variance * np.linalg.inv(columns.T @ columns)))
    if found[0] <= 0 or found[1] <= 0:
        raise UserError(
            f"the fit gives {found[0]:.2f} W idle and {found[1]:.2f} W a busy core: was something else running, or is the meter "
            "somebody else's?"
        )
    fitted = [
        Coefficient(value=value, low=max(value - 2 * error, 0.0), high=value + 2 * error, source=source)
        for value, error in zip(found.tolist(), errors.tolist(), strict=True)
    ]
    return Board(
        name=name,
        models=(name,),
        cores=prior.cores,
        idle_w=fitted[0],
        core_w=fitted[1],
        sent_j_mb=fitted[2] if sends else prior.sent_j_mb,
        received_j_mb=prior.received_j_mb,
        kind="estimated_calibrated",
    )


def calibrate(
    loads: Sequence[Load],
    seconds: float,
    report: Callable[[], Usage],
    send: Callable[[], None] | None = None,
    show: Callable[[str], None] = lambda text: None,
) -> list[Stretch]:
    """Run each load for some time, and take what the profiler reports.

    Args:
        loads: from `plan_of`.
        seconds: duration of each load; a minute is good.
        report: report of a profiler with a meter; called before and after each load.
        send: sends some bytes; called again and again.
        show: called after each load, with a line about it.

    Raises:
        UserError: the meter gave no energy.
    """
    found = []
    for load in loads:
        with _busy(load.busy_cores):
            report()
            ends = time.monotonic() + seconds
            while (left := ends - time.monotonic()) > 0:
                if load.sends and send is not None:
                    send()
                else:
                    time.sleep(min(left, 1.0))
            usage = report()
        if usage.energy is None or usage.busy_core_s is None:
            raise UserError(f"the meter told nothing while the board was {load.name}: {'; '.join(usage.flags)}")
        activity = Activity(usage.seconds, usage.busy_core_s, usage.sent_bytes or 0, usage.received_bytes or 0)
        found.append(Stretch(activity, usage.energy.energy_j))
        show(
            f"{load.name:<11} {usage.energy.energy_j / usage.seconds:6.2f} W, {activity.busy_core_s / usage.seconds:.2f} cores busy"
        )
    return found


@contextmanager
def _busy(cores: int) -> Iterator[None]:
    """Keep this many cores busy."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(os.getpid(),), daemon=True) for _ in range(cores)]
    for worker in workers:
        worker.start()
    if workers:
        time.sleep(1.0)  # until they are up
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _work(parent: int) -> None:
    """Multiply, as training does, until the parent is gone."""
    os.environ["OMP_NUM_THREADS"] = "1"
    matrix = np.random.default_rng(0).standard_normal((128, 128), np.float32)
    while os.getppid() == parent:
        for _ in range(100):
            matrix = np.tanh(matrix @ matrix)
