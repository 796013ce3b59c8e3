"""A trial in one process: the real coordinator and agents, with a broker in memory."""

import contextlib
import threading
from pathlib import Path

import msgspec
import torch

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.record.record import Record, Run, read_run
from cutlayer_core.samples import data
from cutlayer_core.trial.trial import Trial
from cutlayer_core.wire.transports import MemoryBroker
from cutlayer_device.training.agent import Agent
from cutlayer_device.training.agent import birth_of as device_birth
from cutlayer_device.training.states import States
from cutlayer_export import export_bundle
from cutlayer_server.training.coordinator import Coordinator


class Device(threading.Thread):
    """An agent; ``error`` is what it raised."""

    def __init__(
        self,
        broker: MemoryBroker,
        bundle: Path,
        trial: Trial,
        name: str,
        samples: data.Samples,
        states: Path,
        threads: int,
    ):
        super().__init__(name=name, daemon=True)
        self._broker, self._bundle, self._samples = broker, read_bundle(bundle), samples
        self._birth = device_birth(self._bundle, trial.name, name, len(samples.y))
        self._states, self._threads, self.error = states, threads, None

    def run(self) -> None:
        try:
            with contextlib.closing(States(self._states, self._bundle.manifest.client.fingerprint)) as states:
                connect = lambda will, wait_s: self._broker.connect(will)  # noqa: E731
                Agent(self._bundle, self._samples, self._birth, connect, states, threads=self._threads).run()
        except Exception as error:  # noqa: BLE001 - whoever waits for the server sees it
            self.error = error


def run_in_memory(trial: Trial, inputs: Path, folder: Path, place: torch.device, threads: int) -> Run:
    """Run a trial to its end. Raises what the server raises, or a device."""
    torch.set_num_threads(1)
    # Nothing is to be saved for later, and nobody is lost: no checkpoints, and all the patience there is.
    trial = msgspec.structs.replace(trial, checkpoint_s=1e9, patience_s=3600.0)
    export_bundle(trial.recipe, folder / "client.bundle")
    broker = MemoryBroker()
    devices = []
    for name in trial.devices:
        samples = data.load(inputs / f"{name}.npz", trial.model.input)
        devices.append(
            Device(broker, folder / "client.bundle", trial, name, samples, folder / "states" / name, threads)
        )
    test = data.load(inputs / "test.npz", trial.model.input, part="test")
    coordinator, record = Coordinator(trial, test, place), Record(folder / "run", "")
    for device in devices:
        device.start()
    coordinator.run(broker.connect, record, lambda missing: None)
    for device in devices:
        device.join(timeout=60)
        if device.error is not None:
            raise device.error
    return read_run(folder / "run")
