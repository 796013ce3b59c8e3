"""A trial that needs fewer devices than it names: those that are lost, late or restarted hold nobody up."""

import threading
import time

import msgspec
import pytest

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.record.events import EpochDone, Joined, Missed
from cutlayer_core.record.record import Record, read_run
from cutlayer_core.samples import data
from cutlayer_core.trial.aggregation import Epsl, Parallel, Sequential, SplitFed
from cutlayer_core.wire.transports import MemoryBroker
from cutlayer_server.model.server_model import ServerModel
from cutlayer_server.training.coordinator import Coordinator
from harness import Board, Killed, MortalTransport, digits_trial, shares

EPOCHS = 12
AGGREGATIONS = pytest.mark.parametrize(
    "aggregation",
    [
        pytest.param(Sequential(), id="sequential", marks=pytest.mark.slow),
        pytest.param(SplitFed(), id="splitfed"),
        pytest.param(Epsl(0.5), id="epsl", marks=pytest.mark.slow),
    ],
)


class Gate:
    """The Wi-Fi of one board: while it is shut, its packets vanish both ways, and nobody is told."""

    def __init__(self, device):
        self.device, self.shut = device, False

    def __call__(self, packet):
        return [] if self.shut and f"/{self.device}/" in packet.topic else [packet]


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Lab:
    """A server and the boards of a trial, started one by one."""

    def __init__(self, digits, trial, folder, fault=None):
        self.broker, self.digits, self.trial, self.run_dir = MemoryBroker(fault), digits, trial, folder / "run"
        self.bundle, self.samples = read_bundle(digits / "client.bundle"), shares(digits, trial)
        self.boards, self.error, self.epochs, self.before_the_last = {}, None, 0, lambda: None
        self.server = threading.Thread(target=self._serve, daemon=True)
        self.server.start()

    def _serve(self):
        test = data.load(self.digits / self.trial.data.test, self.trial.model.input, part="test")
        record = Record(self.run_dir, "", self._watch)
        try:
            Coordinator(self.trial, test).run(self.broker.connect, record, lambda missing: None)
        except Exception as error:  # the test looks at it
            self.error = error

    def _watch(self, event):
        if isinstance(event, EpochDone):
            self.epochs += 1
            time.sleep(0.05)  # an epoch of the digits is over before anybody could join
            if self.epochs == self.trial.epochs - 3:
                self.before_the_last()

    def start(self, name, deaths=()):
        states = self.run_dir / "states"
        board = Board(self.broker, self.bundle, self.trial, name, self.samples[name], states, deaths)
        self.boards[name] = board
        board.start()
        return board

    def reach(self, epochs):
        until(lambda: self.epochs >= epochs or not self.server.is_alive())
        assert self.server.is_alive(), self.error

    def end(self):
        for thread in (self.server, *self.boards.values()):
            thread.join(timeout=60)
            assert not thread.is_alive()
        return read_run(self.run_dir)


def trial_of(digits, **changes):
    return digits_trial(digits, **{"epochs": EPOCHS, "min_devices": 1, "patience_s": 0.5, **changes})


def missed(run):
    return [each.missing for each in run.all(EpochDone)]


@AGGREGATIONS
def test_one_that_is_late_takes_part_from_the_next_epoch_on(digits, tmp_path, aggregation):
    lab = Lab(digits, trial_of(digits, aggregation=aggregation), tmp_path)
    lab.start("board-1")
    lab.reach(2)
    lab.start("board-2")
    run = lab.end()
    assert lab.error is None
    assert {board.outcome for board in lab.boards.values()} == {f"all {EPOCHS} epochs are done"}
    (joined,) = run.all(Joined)
    assert (joined.device, joined.samples) == ("board-2", 718)
    assert missed(run) == [("board-2",)] * joined.epoch + [()] * (EPOCHS - joined.epoch)
    assert run.all(Missed)[0].reason == "it has not joined"
    assert run.summary.missed == {"board-2": joined.epoch}
    assert run.summary.test_accuracy > 0.9


@AGGREGATIONS
def test_one_that_is_cut_off_is_missed_and_comes_back_by_itself(digits, tmp_path, aggregation):
    gate = Gate("board-2")
    lab = Lab(digits, trial_of(digits, aggregation=aggregation, epochs=20), tmp_path, gate)
    lab.start("board-1")
    board = lab.start("board-2")
    lab.reach(2)
    before = board.transport
    lab.before_the_last = lambda: until(lambda: board.transport is not before)
    gate.shut = True
    lab.reach(lab.epochs + 4)
    gate.shut = False
    run = lab.end()
    assert lab.error is None
    assert {board.outcome for board in lab.boards.values()} == {"all 20 epochs are done"}
    assert ("board-2",) in missed(run)
    assert missed(run)[-1] == ()
    assert run.all(Missed)[0].reason == "nothing was heard from board-2 for 0.5 s"
    assert run.summary.resumed == 0


@pytest.mark.slow
def test_one_that_is_killed_and_started_again_sends_nobody_back(digits, tmp_path):
    lab = Lab(digits, trial_of(digits, epochs=15, patience_s=3.0), tmp_path)
    lab.start("board-1")
    board = lab.start("board-2", deaths=(60,))
    lab.before_the_last = lambda: until(lambda: not isinstance(board.transport, MortalTransport))
    run = lab.end()
    assert lab.error is None
    assert {board.outcome for board in lab.boards.values()} == {"all 15 epochs are done"}
    assert run.summary.resumed == 0
    assert [(each.device, each.reason) for each in run.all(Missed)] == [("board-2", "board-2 started anew")]
    assert [each.device for each in run.all(Joined)] == ["board-2"]
    assert missed(run)[-1] == ()


@pytest.mark.slow
def test_several_that_are_gone_are_waited_for_together(digits, tmp_path):
    trial = trial_of(digits, aggregation=SplitFed(), epochs=3, patience_s=1.5)
    lab = Lab(digits, trial, tmp_path, Gate("none"))
    lab.start("board-1")
    lab.start("board-2")
    lab.reach(1)
    lab.boards["board-1"].transport.die()
    lab.boards["board-2"].transport.die()
    began = time.monotonic()
    lab.server.join(timeout=10)
    assert time.monotonic() - began < 2.8  # not one patience after the other
    assert "is gone: it was killed, or lost power or network" in str(lab.error)


def test_fewer_than_the_trial_needs_end_it(digits, tmp_path):
    lab = Lab(digits, trial_of(digits, min_devices=2), tmp_path)
    lab.start("board-1")
    board = lab.start("board-2")
    lab.reach(1)
    board.transport.die()
    lab.server.join(timeout=10)
    assert "board-2 is gone" in str(lab.error)


def test_a_server_that_goes_on_waits_no_longer_for_the_missing_than_at_the_beginning(digits, tmp_path):
    lab = Lab(digits, trial_of(digits, epochs=2), tmp_path)
    lab.start("board-2")
    run = lab.end()
    assert missed(run) == [("board-1",)] * 2
    assert run.summary.ok


@pytest.mark.slow
def test_a_board_that_lost_its_card_begins_anew_where_others_would_be_sent_back(digits, tmp_path):
    """Its server goes on from a checkpoint that the board can no longer follow."""
    trial = trial_of(digits, epochs=3, checkpoint_s=0.0, patience_s=3.0)
    lab = Lab(digits, trial, tmp_path)
    lab.boards["board-1"] = Board(
        lab.broker, lab.bundle, trial, "board-1", lab.samples["board-1"], tmp_path / "card", deaths=(30,)
    )
    lab.boards["board-1"]._live = new_card_each_life(lab.boards["board-1"], tmp_path)
    lab.boards["board-1"].start()
    run = lab.end()
    assert lab.error is None
    assert run.summary.ok
    assert run.summary.resumed == 1
    assert missed(run) == [("board-2",)] * 3


def test_one_that_comes_between_gathering_and_the_first_step_takes_part_from_the_next_epoch_on(
    digits, tmp_path, monkeypatch
):
    def and_meanwhile(*_):
        board = lab.start("board-2")
        until(lambda: board.transport is not None)
        time.sleep(1.0)

    monkeypatch.setattr("cutlayer_server.training.coordinator.check_last_batches", and_meanwhile)
    lab = Lab(digits, trial_of(digits, epochs=3), tmp_path)
    lab.start("board-1")
    run = lab.end()
    assert lab.error is None
    assert missed(run) == [("board-2",), (), ()]


@pytest.mark.slow
def test_one_that_comes_back_with_other_samples_is_refused(digits, tmp_path):
    lab = Lab(digits, trial_of(digits, epochs=8, patience_s=3.0), tmp_path)
    lab.start("board-1")
    board = lab.start("board-2", deaths=(60,))
    lab.reach(1)
    board._birth = msgspec.structs.replace(board._birth, samples=300)
    lab.before_the_last = lambda: until(lambda: not isinstance(board.transport, MortalTransport)) or time.sleep(1.0)
    run = lab.end()
    assert lab.error is None
    assert run.summary.ok
    assert "it has 300 samples, it had 718: give it the same --data" in str(board.outcome)


@pytest.mark.slow
def test_a_server_that_computes_for_longer_than_its_patience_loses_nobody(digits, tmp_path, monkeypatch):
    """What it spends on one device's batch is not another's silence."""
    step = ServerModel.step

    def slow(self, parts, sharing=None):
        time.sleep(0.4)
        return step(self, parts, sharing)

    monkeypatch.setattr(ServerModel, "step", slow)
    trial = trial_of(digits, aggregation=SplitFed(), epochs=1, patience_s=0.5)
    lab = Lab(
        digits, msgspec.structs.replace(trial, data=msgspec.structs.replace(trial.data, batch_size=256)), tmp_path
    )
    lab.start("board-1")
    lab.start("board-2")
    run = lab.end()
    assert lab.error is None
    assert (missed(run), run.summary.steps) == ([()], 6)


def new_card_each_life(board, folder):
    live, lives = board._live, []

    def lived():
        lives.append(None)
        board._folder = folder / f"card-{len(lives)}"
        return live()

    return lived


@pytest.mark.parametrize("aggregation", [SplitFed(), Parallel(), Sequential()], ids=str)
def test_an_epoch_whose_only_chosen_one_is_lost_changes_nothing(digits, tmp_path, aggregation):
    trial = trial_of(
        digits,
        aggregation=aggregation,
        epochs=6,
        patience_s=0.5,
        clients_per_round=1,
        min_devices=1,
        checkpoint_s=1000.0,
    )
    lab = Lab(digits, trial, tmp_path)
    lab.start("board-1")
    board = lab.start("board-2", deaths=(14,))
    run = lab.end()
    assert lab.error is None
    assert run.summary.ok
    assert len(run.all(EpochDone)) == 6
    assert board.transport is not None


@pytest.mark.parametrize("aggregation", [Parallel(), Epsl(0.5)], ids=str)
def test_one_that_is_there_only_when_the_server_comes_back_takes_part(digits, tmp_path, aggregation):
    trial = trial_of(digits, aggregation=aggregation, epochs=3, min_devices=1, checkpoint_s=0.0, patience_s=1.0)
    test = data.load(digits / trial.data.test, trial.model.input, part="test")
    broker, bundle, samples = MemoryBroker(), read_bundle(digits / "client.bundle"), shares(digits, trial)
    boards = [Board(broker, bundle, trial, name, samples[name], tmp_path / "states") for name in trial.devices]
    boards[0].start()
    first, record = Coordinator(trial, test), Record(tmp_path / "run", "")
    with pytest.raises(Killed):
        first.run(lambda will: MortalTransport(broker.connect(will), 60), record, lambda missing: None)
    boards[1].start()
    record = Record(tmp_path / "run", "", resume=True)
    Coordinator(trial, test).run(broker.connect, record, lambda missing: None)
    for board in boards:
        board.join(timeout=20)
    assert [board.outcome for board in boards] == ["all 3 epochs are done"] * 2
    run = read_run(tmp_path / "run")
    assert run.summary.resumed == 1
    assert [fault.device for fault in run.faults if isinstance(fault, Joined)] == ["board-2"]
    assert missed(run)[-1] == ()
