"""Whoever is killed, and whenever: the training goes on, and ends as if nothing had happened, to the last bit."""

import threading
from contextlib import suppress

import numpy as np
import pytest
from safetensors.numpy import load_file

from cutlayer import data
from cutlayer.aggregation import Sequential, SplitFed
from cutlayer.bundle import read_bundle
from cutlayer.record import Record, Step, read_run
from cutlayer.transports import MemoryBroker
from cutlayer_server.coordinator import Coordinator
from harness import Board, Killed, MortalTransport, digits_trial, run_trial, shares

EPOCHS = 3
CHECKPOINTS = pytest.mark.parametrize(
    "checkpoint_s",
    [pytest.param(0.0, id="every turn"), *(pytest.param(each, marks=pytest.mark.slow) for each in (0.2, 1000.0))],
)


def trial_of(digits, aggregation, **changes):
    return digits_trial(digits, epochs=EPOCHS, aggregation=aggregation, **changes)


def lead(digits, trial, run_dir, broker, deaths):
    """Servers one after the other, each killed after so many packets, the last one not."""
    test = data.load(digits / trial.data.test, trial.model.input, part="test")
    for dies_after in (*deaths, 1 << 30):  # packets

        def connect(will, dies_after=dies_after):
            return MortalTransport(broker.connect(will), dies_after)

        with suppress(Killed):
            Coordinator(trial, test).run(connect, Record(run_dir, "", resume=True), lambda missing: None)
            return


def disturbed(digits, trial, run_dir, server_deaths=(), **device_deaths):
    broker, bundle = MemoryBroker(), read_bundle(digits / "client.bundle")
    boards = [
        Board(broker, bundle, trial, name, samples, run_dir / "states", device_deaths.get(name.replace("-", "_"), ()))
        for name, samples in shares(digits, trial).items()
    ]
    server = threading.Thread(target=lead, args=(digits, trial, run_dir, broker, server_deaths), daemon=True)
    for thread in (server, *boards):
        thread.start()
    for thread in (server, *boards):
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert [board.outcome for board in boards] == [f"all {EPOCHS} epochs are done"] * len(boards)
    return read_run(run_dir)


def same(run, wanted):
    found, expected = (load_file(each.path / "model.safetensors") for each in (run, wanted))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    steps, all_steps = ([(s.epoch, s.step, s.device, s.loss) for s in each.all(Step)] for each in (run, wanted))
    assert steps == all_steps


@pytest.fixture(scope="module", params=[Sequential(), SplitFed()], ids=["sequential", "splitfed"])
def undisturbed(request, digits, tmp_path_factory):
    trial = trial_of(digits, request.param)
    return trial, run_trial(digits, trial, tmp_path_factory.mktemp("undisturbed") / "run")[0]


@CHECKPOINTS
def test_a_device_that_is_killed(digits, undisturbed, tmp_path, checkpoint_s):
    trial = trial_of(digits, undisturbed[0].aggregation, checkpoint_s=checkpoint_s)
    run = disturbed(digits, trial, tmp_path / "run", board_1=(60, 50), board_2=(40,))
    same(run, undisturbed[1])
    assert run.summary.resumed >= 2


@CHECKPOINTS
def test_a_server_that_is_killed(digits, undisturbed, tmp_path, checkpoint_s):
    trial = trial_of(digits, undisturbed[0].aggregation, checkpoint_s=checkpoint_s)
    run = disturbed(digits, trial, tmp_path / "run", server_deaths=(40, 100, 60))
    same(run, undisturbed[1])
    assert run.summary.resumed == 3
