"""What a training step of a client-side model costs on this machine."""

import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np

from cutlayer_core.bundles.bundle import Bundle
from cutlayer_core.codecs import Codecs, Fp8
from cutlayer_core.record.energy import Energy
from cutlayer_core.record.phases import Phases
from cutlayer_core.record.usage import Usage
from cutlayer_core.samples.draws import random_batch
from cutlayer_device.engines import load_engine
from cutlayer_profiles.profiler import Profiler

__all__ = ["Setting", "StepCost", "measure_step"]

_WARM_UP = 3
_LEAST_STEPS = 5
_CODECS = Codecs(up=Fp8(), down=Fp8())


class Setting(NamedTuple):
    """What to measure.

    Attributes:
        bundle: its path.
        batch_size: samples per step.
        threads: of the engine; 0 leaves the number to the engine.
        seconds: how long to measure.
        idle_s: how long to idle before and after, so that a meter shows what the machine draws when idle.
    """

    bundle: Path
    batch_size: int
    threads: int
    seconds: float
    idle_s: float


class StepCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry of a board profile: medians over many steps on random samples, with FP8 both ways."""

    bundle: str
    fingerprint: str = ""
    """Fingerprint of the client-side model in the bundle."""
    cut: str
    batch_size: int
    threads: int
    steps: int
    step_ms: float
    phases_ms: dict[str, float]
    """Forward, encode, decode, backward; a frozen client has the first two."""
    cpu_ms: float
    """Core milliseconds per step, averaged over all steps."""
    rss_peak_bytes: int
    pss_peak_bytes: int = 0
    """Memory that the process shares with others counts by its share."""
    payload_bytes: int
    """Smashed data up; the cut gradient down has the same size."""
    energy: Energy | None = None
    """Per step, averaged over all steps; needs a meter or coefficients."""
    idle_w: float | None = None
    """What the machine drew when idle before and after, which no setting can save."""
    meter: str = ""
    flags: tuple[str, ...] = ()


class _Client:
    """Steps of one client on one batch of random samples."""

    def __init__(self, bundle: Bundle, setting: Setting, phases: Phases) -> None:
        client = bundle.manifest.client
        self._engine, self._phases = load_engine(bundle, setting.threads), phases
        self._trains = client.optimizer is not None
        random = np.random.default_rng(0)
        self._x = random_batch(client.input, setting.batch_size, random)
        gradient = 1e-3 * random.standard_normal((setting.batch_size, *client.smashed.shape), np.float32)
        sent = _CODECS.encode(self._engine.infer(self._x))
        self._answer = _CODECS.encode_gradient(gradient, _CODECS.decode(sent.tensor, sent.payload, steady=False))
        self.payload_bytes = len(sent.payload)

    def step(self, number: int) -> None:
        """Take one step."""
        with self._phases("forward"):
            z = self._engine.forward(self._x, number) if self._trains else self._engine.infer(self._x)
        with self._phases("encode"):
            sent = _CODECS.encode(z)
        if not self._trains:
            return
        with self._phases("decode"):
            gradient = _CODECS.decode_gradient(self._answer.tensor, self._answer.payload, sent)
        with self._phases("backward"):
            self._engine.backward(gradient, 1e-4)


def measure_step(bundle: Bundle, setting: Setting, profiler: Profiler) -> StepCost:
    """Train for ``setting.seconds`` in this process; its memory is one setting's only if it measures no other."""
    phases = Phases(time.monotonic, profiler.mark)
    client = _Client(bundle, setting, phases)
    for number in range(_WARM_UP):
        client.step(number)
    idle = [_rest(profiler, setting.idle_s)]
    phases.take()
    took_ms: list[float] = []
    parts_ms: list[dict[str, float]] = []
    ends = time.monotonic() + setting.seconds
    while time.monotonic() < ends or len(took_ms) < _LEAST_STEPS:
        began = time.monotonic()
        client.step(len(took_ms) + _WARM_UP)
        took_ms.append(1e3 * (time.monotonic() - began))
        parts_ms.append(phases.take())
    usage = profiler.report()
    idle.append(_rest(profiler, setting.idle_s))
    number = len(took_ms)
    return StepCost(
        bundle=str(setting.bundle),
        fingerprint=bundle.manifest.client.fingerprint,
        cut=bundle.manifest.client.cut,
        batch_size=setting.batch_size,
        threads=setting.threads,
        steps=number,
        step_ms=median(took_ms),
        phases_ms={name: 1e3 * median(part[name] for part in parts_ms) for name in parts_ms[0]},
        cpu_ms=1e3 * usage.cpu_s / number,
        rss_peak_bytes=usage.rss_peak_bytes or 0,
        pss_peak_bytes=usage.pss_peak_bytes or 0,
        payload_bytes=client.payload_bytes,
        energy=_share(usage.energy, number),
        idle_w=_mean_w(idle),
        meter=usage.meter,
        flags=usage.flags,
    )


def _rest(profiler: Profiler, seconds: float) -> Usage:
    """Idle, and return what that took; also ends the report of what came before."""
    profiler.report()
    time.sleep(seconds)
    return profiler.report()


def _mean_w(idle: list[Usage]) -> float | None:
    energies = [usage.energy for usage in idle if usage.energy and usage.samples > 1]
    seconds = sum(usage.seconds for usage in idle)
    return sum(energy.energy_j for energy in energies) / seconds if len(energies) == len(idle) else None


def _share(energy: Energy | None, number: int) -> Energy | None:
    if energy is None:
        return None
    low_j, high_j = energy.low_j / number, energy.high_j / number
    return msgspec.structs.replace(energy, energy_j=energy.energy_j / number, low_j=low_j, high_j=high_j)
