"""How long a step takes by each arrangement of a bundle, in turns."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.bundles.bundle import Bundle
from cutlayer_core.errors import UserError
from cutlayer_core.samples.draws import random_batch
from cutlayer_device.engines import Engine, load_engine
from cutlayer_device.tuning.tuning import OWN, Tuned, fingerprint_of
from cutlayer_profiles.machine import machine_name
from cutlayer_profiles.meters import Root

__all__ = ["measure_arrangements"]

_WARM_UP, _TURN = 2, 3
_Batch = NDArray[Any]


def measure_arrangements(
    bundle: Bundle, batch_size: int, threads: int, seconds: float, tell: Callable[[str], None] = lambda text: None
) -> Tuned:
    """Measure steps of all arrangements in turns, ``seconds`` for each.

    Raises:
        UserError: the bundle may not train, or holds one arrangement only.
    """
    bundle.require_training()
    others = bundle.manifest.arrangements
    if not others:
        raise UserError(
            "the bundle holds one arrangement, so there is nothing to choose: export it with --arrangements; if it was, "
            "no other differs"
        )
    bundles = {OWN: bundle} | {name: bundle.arranged(name) for name in others}
    engines = {name: load_engine(each, threads) for name, each in bundles.items()}
    client = bundle.manifest.client
    random = np.random.default_rng(0)
    x = random_batch(client.input, batch_size, random)
    g = 1e-3 * random.standard_normal((batch_size, *client.smashed.shape), np.float32)
    took_s: dict[str, list[float]] = {name: [] for name in engines}
    for name, engine in engines.items():
        tell(f"the first steps of {name}")
        _steps(engine, x, g, _WARM_UP)
    ends = time.monotonic() + seconds * len(engines)
    while time.monotonic() < ends or not all(took_s.values()):
        for name, engine in engines.items():
            tell(f"{name}, {len(took_s[name])} steps so far")
            took_s[name] += _steps(engine, x, g, _TURN)
    return Tuned(
        graphs=fingerprint_of(bundle),
        machine=machine_name(Root()),
        runtime=engines[OWN].runtime,
        threads=threads,
        batch_size=batch_size,
        step_ms={name: 1e3 * median(each) for name, each in took_s.items()},
    )


def _steps(engine: Engine, x: _Batch, g: _Batch, number: int) -> list[float]:
    took = []
    for _ in range(number):
        began = time.monotonic()
        engine.forward(x, 0)
        engine.backward(g, 1e-4)
        took.append(time.monotonic() - began)
    return took
