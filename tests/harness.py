"""A whole trial in one process: the real coordinator and real agents, over a memory broker or a real one."""

import os
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import MappingProxyType

import msgspec

from cutlayer_core.bundles.bundle import Bundle, read_bundle
from cutlayer_core.record.record import Record, Run, read_run
from cutlayer_core.samples import data
from cutlayer_core.trial.trial import Trial, read_trial
from cutlayer_core.wire.transports import LastWill, MemoryBroker, MemoryTransport
from cutlayer_device.training.agent import Agent
from cutlayer_device.training.agent import birth_of as device_birth
from cutlayer_device.training.states import States
from cutlayer_profiles.profiler import Profiler
from cutlayer_server.model.processor import processor
from cutlayer_server.training.coordinator import Coordinator

PLACE = processor(os.environ.get("TORCH_DEVICE", "cpu"))
"""Where server-side halves run; with an accelerator at hand, TORCH_DEVICE=cuda."""


def digits_trial(folder: Path, **changes) -> Trial:
    """The demo's trial with some fields replaced; it runs to the last epoch."""
    trial = read_trial(folder / "trial.toml")
    return msgspec.structs.replace(trial, **{"target_accuracy": None, "patience_s": 10.0, **changes})


class Killed(BaseException):
    """Stands for SIGKILL: nobody handles it."""


class MortalTransport:
    """A transport whose process is killed when it publishes for the n-th time; after that it is silent."""

    def __init__(self, transport: MemoryTransport, dies_after: int) -> None:
        self._transport, self._left = transport, dies_after

    def publish(self, topic: str, payload: bytes) -> int:
        self._left -= 1
        if self._left == 0:
            self._transport.die()
        if self._left <= 0:
            raise Killed
        return self._transport.publish(topic, payload)

    def publish_retained(self, topic: str, payload: bytes) -> None:
        if self._left > 0:
            self._transport.publish_retained(topic, payload)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


class Board(threading.Thread):
    """An agent in a thread; ``outcome`` is what it returned or raised.

    ``deaths`` has a number for each life that ends by a kill: after how many packets. The next life is a new process.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        bundle: Bundle,
        trial: Trial,
        name: str,
        samples: data.Samples,
        folder: Path,
        deaths: tuple[int, ...] = (),
        profiler: Profiler | None = None,
    ) -> None:
        super().__init__(name=name, daemon=True)  # a board that was cut off waits for its server for ever
        self._broker, self._bundle, self._samples, self._deaths = broker, bundle, samples, list(deaths)
        self._birth = device_birth(bundle, trial.name, name, len(samples.y))
        self._folder = folder / trial.name / name
        self._profiler = profiler
        self.transport: MemoryTransport | MortalTransport | None = None
        self.outcome: object = None

    def run(self) -> None:
        try:
            while self.outcome is None:
                with suppress(Killed):
                    self.outcome = self._live()
        except Exception as error:  # the test looks at it
            self.outcome = error

    def _live(self) -> str:
        dies_after = self._deaths.pop(0) if self._deaths else None

        def connect(will: LastWill, wait_s: float) -> MemoryTransport | MortalTransport:
            transport = self._broker.connect(will)
            self.transport = transport if dies_after is None else MortalTransport(transport, dies_after)
            return self.transport

        with closing(States(self._folder, self._bundle.manifest.client.fingerprint)) as states:
            return Agent(
                self._bundle, self._samples, self._birth, connect, states, threads=1, profiler=self._profiler
            ).run()


def shares(folder: Path, trial: Trial) -> dict[str, data.Samples]:
    """The training samples of each device."""
    return {name: data.load(folder / f"{name}.npz", trial.model.input) for name in trial.devices}


def run_trial(
    folder: Path,
    trial: Trial,
    run_dir: Path,
    broker: MemoryBroker | None = None,
    bundle: Bundle | None = None,
    profilers: Mapping[str, Profiler] = MappingProxyType({}),
    own_bundles: Mapping[str, Bundle] = MappingProxyType({}),
    deaths: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> tuple[Run, list[Board]]:
    """Run a trial to its end; raises what the server raises. Devices may have bundles and deaths of their own."""
    broker = broker or MemoryBroker()
    bundle = bundle or read_bundle(folder / "client.bundle")
    boards = [
        Board(
            broker,
            own_bundles.get(name, bundle),
            trial,
            name,
            samples,
            run_dir / "states",
            deaths.get(name, ()),
            profilers.get(name),
        )
        for name, samples in shares(folder, trial).items()
    ]
    test = data.load(folder / trial.data.test, trial.model.input, part="test")
    coordinator, record = Coordinator(trial, test, PLACE), Record(run_dir, "")
    for board in boards:
        board.start()
    try:
        coordinator.run(broker.connect, record, lambda missing: None)
    finally:
        for board in boards:
            board.join(timeout=20)
    return read_run(run_dir), boards
