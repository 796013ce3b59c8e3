"""Whoever is killed, and whenever: the training goes on, and ends as if nothing had happened, to the last bit."""

import threading
from contextlib import suppress

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.codecs import Codecs, IntQ, ProductQuantizer
from cutlayer_core.errors import UserError
from cutlayer_core.record.events import EpochDone, Step
from cutlayer_core.record.record import Record, read_run
from cutlayer_core.samples import data
from cutlayer_core.schedules import LossGated, Replay
from cutlayer_core.trial.aggregation import Epsl, Parallel, Sequential, SplitFed
from cutlayer_core.wire.transports import MemoryBroker, MemoryTransport
from cutlayer_server.training.coordinator import Coordinator
from harness import PLACE, Board, Killed, MortalTransport, digits_trial, run_trial, shares

EPOCHS = 3
CHECKPOINTS = pytest.mark.parametrize(
    "checkpoint_s",
    [pytest.param(0.0, id="every turn"), *(pytest.param(each, marks=pytest.mark.slow) for each in (0.2, 1000.0))],
)


def trial_of(digits, **changes):
    return digits_trial(digits, epochs=EPOCHS, **changes)


def lead(digits, trial, run_dir, broker, deaths):
    """Servers one after the other, each killed after so many packets, the last one not."""
    test = data.load(digits / trial.data.test, trial.model.input, part="test")
    for dies_after in (*deaths, 1 << 30):  # packets

        def connect(will, dies_after=dies_after):
            return MortalTransport(broker.connect(will), dies_after)

        with suppress(Killed):
            Coordinator(trial, test, PLACE).run(connect, Record(run_dir, "", resume=True), lambda missing: None)
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
    modes, all_modes = ([(each.mode, each.modes) for each in one.all(EpochDone)] for one in (run, wanted))
    assert modes == all_modes


VARIANTS = {
    "sequential": {"aggregation": Sequential()},
    "splitfed": {"aggregation": SplitFed()},
    "epsl": {"aggregation": Epsl(0.5)},
    "copies": {"aggregation": SplitFed(1), "schedule": Replay(2)},
    "loss gated, warm k-means": {
        "aggregation": Parallel(),
        "schedule": LossGated(10.0, per="client"),
        "codec": Codecs(
            up=ProductQuantizer(64, 8, correction=1e-3), down=IntQ(8, rounding="stochastic"), lossless="zstd"
        ),
    },
}


IN_A_HURRY = ("sequential", "splitfed", "loss gated, warm k-means")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(changes, id=name, marks=[] if name in IN_A_HURRY else pytest.mark.slow)
        for name, changes in VARIANTS.items()
    ],
)
def undisturbed(request, digits, tmp_path_factory):
    trial = trial_of(digits, **request.param)
    return trial, run_trial(digits, trial, tmp_path_factory.mktemp("undisturbed") / "run")[0]


@CHECKPOINTS
def test_a_device_that_is_killed(digits, undisturbed, tmp_path, checkpoint_s):
    trial = msgspec.structs.replace(undisturbed[0], checkpoint_s=checkpoint_s)
    run = disturbed(digits, trial, tmp_path / "run", board_1=(30, 25), board_2=(20,))
    same(run, undisturbed[1])
    assert run.summary.resumed >= 2


@CHECKPOINTS
def test_a_server_that_is_killed(digits, undisturbed, tmp_path, checkpoint_s):
    trial = msgspec.structs.replace(undisturbed[0], checkpoint_s=checkpoint_s)
    run = disturbed(digits, trial, tmp_path / "run", server_deaths=(20, 50, 30))
    same(run, undisturbed[1])
    assert run.summary.resumed == 3


@pytest.mark.parametrize("packet", [4, pytest.param(5, marks=pytest.mark.slow)])
def test_a_device_that_is_killed_around_the_first_checkpoint(digits, undisturbed, tmp_path, packet):
    trial = msgspec.structs.replace(undisturbed[0], checkpoint_s=0.0)
    same(disturbed(digits, trial, tmp_path / "run", board_1=(packet,)), undisturbed[1])


def test_a_board_that_loses_power_takes_its_name_back_at_once(digits, undisturbed, tmp_path, monkeypatch):
    """No will is published: the broker has not noticed yet."""
    monkeypatch.setattr(MemoryTransport, "die", MemoryTransport.close)
    trial = msgspec.structs.replace(undisturbed[0], patience_s=3.0)
    same(disturbed(digits, trial, tmp_path / "run", board_2=(50,)), undisturbed[1])


class Interrupted(MortalTransport):
    """Ctrl-C at the n-th packet; what is said after it still gets through."""

    def publish(self, topic, payload):
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt
        return self._transport.publish(topic, payload)

    def publish_retained(self, topic, payload):
        self._transport.publish_retained(topic, payload)


def test_an_interrupted_server_is_waited_for(digits, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setitem(lead.__globals__, "MortalTransport", Interrupted)
    monkeypatch.setitem(lead.__globals__, "Killed", KeyboardInterrupt)
    same(disturbed(digits, undisturbed[0], tmp_path / "run", server_deaths=(60,)), undisturbed[1])


def test_other_samples_than_before_are_refused(digits, undisturbed, tmp_path):
    trial = msgspec.structs.replace(undisturbed[0], checkpoint_s=0.0, devices=("board-1",))
    broker, bundle, run_dir = MemoryBroker(), read_bundle(digits / "client.bundle"), tmp_path / "run"
    samples = shares(digits, trial)["board-1"]
    test = data.load(digits / trial.data.test, trial.model.input, part="test")
    first = Board(broker, bundle, trial, "board-1", samples, run_dir / "states", deaths=(30,))
    first.start()

    def swap(missing):
        if not missing:  # it is there; its next life will have others
            first._birth = msgspec.structs.replace(first._birth, samples=300)

    with pytest.raises(UserError, match="board-1 has 300 samples, it had 719 when this run began"):
        Coordinator(trial, test).run(broker.connect, Record(run_dir, ""), swap)
    first.join(timeout=20)


def test_one_run_has_one_server(tmp_path):
    record = Record(tmp_path / "run", "")
    with pytest.raises(UserError, match="another process uses it: stop that server first"):
        Record(tmp_path / "run", "", resume=True)
    record.close("x")
    Record(tmp_path / "run", "", resume=True).close("x")


def test_the_variants_are_what_their_names_say(undisturbed):
    """So that the tests above mean something: modes, and messages to all."""
    trial, run = undisturbed
    modes = [epoch.mode for epoch in run.all(EpochDone)]
    wanted = {"loss_gated": ["exchange", "forward", "silent"], "replay": ["forward", "silent", "forward"]}
    assert modes == wanted.get(trial.schedule.id, ["exchange"] * EPOCHS)
