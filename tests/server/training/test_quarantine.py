"""A device that sends what cannot be is left out, and the others go on as if it had never been there."""

import threading

import numpy as np
import pytest
from safetensors.numpy import load_file

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.errors import RemoteError
from cutlayer_core.record.events import Step
from cutlayer_core.record.record import Record, read_run
from cutlayer_core.samples import data
from cutlayer_core.trial.aggregation import Epsl, Parallel, Sequential, SplitFed
from cutlayer_core.wire.transports import MemoryBroker
from cutlayer_device.training.server_link import TrialFailed
from cutlayer_server.training.coordinator import Coordinator
from cutlayer_server.training.step import TrainingStep
from harness import Board, digits_trial, run_trial, shares


def poisoned(samples):
    """One sample is not a number, so the board sends a batch that is not finite."""
    x = samples.x.astype(np.float32)
    x[70] = np.nan
    return data.Samples(x, samples.y)


def run(digits, trial, run_dir, broker):
    boards = []
    for name, samples in shares(digits, trial).items():
        given = poisoned(samples) if name == "board-2" else samples
        boards.append(Board(broker, read_bundle(digits / "client.bundle"), trial, name, given, run_dir / "states"))
    test = data.load(digits / trial.data.test, trial.model.input, part="test")
    record = Record(run_dir, "")
    server = threading.Thread(target=Coordinator(trial, test).run, args=(broker.connect, record, lambda missing: None))
    for thread in (server, *boards):
        thread.start()
    for thread in (server, *boards):
        thread.join(timeout=60)
        assert not thread.is_alive()
    return read_run(run_dir), boards


ALL = [Sequential(), SplitFed(), SplitFed(1), Parallel(), Epsl(0.5)]


@pytest.mark.parametrize("aggregation", ALL, ids=str)
def test_the_others_go_on_as_if_it_had_never_been_there(digits, tmp_path, aggregation):
    trial = digits_trial(digits, epochs=2, aggregation=aggregation, checkpoint_s=1000.0)
    found, (good, bad) = run(digits, trial, tmp_path / "run", MemoryBroker())
    assert good.outcome == "all 2 epochs are done"
    assert isinstance(bad.outcome, TrialFailed)
    assert any(why in str(bad.outcome) for why in ("not finite", "loss in step 5 of epoch 1 is nan"))
    assert found.summary.quarantined == {"board-2": str(bad.outcome)}
    alone = digits_trial(digits, epochs=2, aggregation=aggregation, devices=("board-1",))
    wanted, _ = run_trial(digits, alone, tmp_path / "alone")
    weights = load_file(wanted.path / "model.safetensors")
    for name, array in load_file(found.path / "model.safetensors").items():
        np.testing.assert_array_equal(array, weights[name])
    assert [step.loss for step in found.all(Step)] == [step.loss for step in wanted.all(Step)]


def test_it_is_refused_when_it_comes_back_also_by_the_next_server(digits, tmp_path):
    trial = digits_trial(digits, epochs=2)
    found, _ = run(digits, trial, tmp_path / "run", MemoryBroker())
    broker = MemoryBroker()  # the other one still has the farewell
    lines = (found.path / "events.jsonl").read_bytes().splitlines(keepends=True)
    (found.path / "events.jsonl").write_bytes(b"".join(lines[:-1]))  # as if the server had died before the end
    record = Record(found.path, "", resume=True)
    assert list(record.quarantined) == ["board-2"]
    boards = [
        Board(broker, read_bundle(digits / "client.bundle"), trial, name, samples, found.path / "states")
        for name, samples in shares(digits, trial).items()
    ]
    for board in boards:
        board.start()
    test = data.load(digits / trial.data.test, trial.model.input, part="test")
    Coordinator(trial, test).run(broker.connect, record, lambda missing: None)
    for board in boards:
        board.join(timeout=20)
    assert boards[0].outcome == "all 2 epochs are done"
    assert "it is left out of this run" in str(boards[1].outcome)


@pytest.mark.parametrize("aggregation", ALL, ids=str)
def test_nothing_stays_of_one_that_goes_bad_after_a_pass_that_a_checkpoint_holds(
    digits, tmp_path, aggregation, monkeypatch
):
    """The others go back to the end of that pass, and go on without its weights, its copy, and its part in the evaluation."""
    decode = TrainingStep.decode

    def bad_from_epoch_1(self, device, mode, message):
        if device == "board-2" and message.header.epoch == 1:
            error = RemoteError("board-2 sent nonsense")
            error.device = device
            raise error
        return decode(self, device, mode, message)

    monkeypatch.setattr(TrainingStep, "decode", bad_from_epoch_1)
    trial = digits_trial(digits, epochs=3, aggregation=aggregation, checkpoint_s=0.0)
    boards, bundle = [], read_bundle(digits / "client.bundle")
    broker = MemoryBroker()
    for name, samples in shares(digits, trial).items():
        boards.append(Board(broker, bundle, trial, name, samples, tmp_path / "states"))
        boards[-1].start()
    test = data.load(digits / trial.data.test, trial.model.input, part="test")
    record = Record(tmp_path / "run", "")
    Coordinator(trial, test).run(broker.connect, record, lambda missing: None)
    for board in boards:
        board.join(timeout=20)
    assert boards[0].outcome == "all 3 epochs are done"
    assert isinstance(boards[1].outcome, TrialFailed)
    found = read_run(tmp_path / "run")
    assert list(found.summary.quarantined) == ["board-2"]
    assert {step.device for step in found.all(Step) if step.epoch > 0} == {"board-1"}
    assert not (tmp_path / "run" / "models" / "board-2.safetensors").exists() or isinstance(
        aggregation, Parallel | Epsl
    )
