"""A whole trial in one process: the real coordinator and real agents, over a memory broker or a real one."""

import threading
from pathlib import Path

import msgspec

from cutlayer import data, topics
from cutlayer.bundle import Bundle, read_bundle
from cutlayer.endpoint import will_of
from cutlayer.record import Record, Run, read_run
from cutlayer.transports import MemoryBroker
from cutlayer.trial import Trial, read_trial
from cutlayer_device.agent import Agent
from cutlayer_device.agent import birth_of as device_birth
from cutlayer_server.coordinator import Coordinator
from cutlayer_server.coordinator import birth_of as server_birth


def digits_trial(folder: Path, **changes) -> Trial:
    """The demo's trial with some fields replaced; it runs to the last epoch."""
    trial = read_trial(folder / "trial.toml")
    return msgspec.structs.replace(trial, **{"target_accuracy": None, "patience_s": 10.0, **changes})


class Board(threading.Thread):
    """An agent in a thread; ``outcome`` is what it returned or raised."""

    def __init__(self, broker: MemoryBroker, bundle: Bundle, trial: Trial, name: str, samples: data.Samples) -> None:
        super().__init__(name=name, daemon=True)  # a board that was cut off waits for its server for ever
        birth = device_birth(bundle, trial.name, name, len(samples.y))
        self.transport = broker.connect(will_of(topics.state(trial.name, name), birth))
        self.agent = Agent(bundle, samples, birth, self.transport, threads=1)
        self.outcome: object = None

    def run(self) -> None:
        try:
            self.outcome = self.agent.run()
        except Exception as error:  # the test looks at it
            self.outcome = error
        self.transport.close()


def shares(folder: Path, trial: Trial) -> dict[str, data.Samples]:
    """The training samples of each device."""
    return {name: data.load(folder / f"{name}.npz", trial.model.input) for name in trial.devices}


def run_trial(
    folder: Path, trial: Trial, run_dir: Path, broker: MemoryBroker | None = None, bundle: Bundle | None = None
) -> tuple[Run, list[Board]]:
    """Run a trial to its end; raises what the server raises."""
    broker = broker or MemoryBroker()
    bundle = bundle or read_bundle(folder / "client.bundle")
    boards = [Board(broker, bundle, trial, name, samples) for name, samples in shares(folder, trial).items()]
    test = data.load(folder / trial.data.test, trial.model.input, part="test")
    coordinator, record = Coordinator(trial, test), Record(run_dir, "")
    birth = server_birth(trial)
    transport = broker.connect(will_of(topics.control(trial.name), birth))
    for board in boards:
        board.start()
    try:
        coordinator.run(birth, transport, record, lambda missing: None)
    finally:
        transport.close()
        for board in boards:
            board.join(timeout=20)
    return read_run(run_dir), boards
