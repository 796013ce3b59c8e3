"""What the server does about devices that are missing, foreign, dead or silent."""

import threading
import time

import msgspec
import numpy as np
import pytest

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.errors import CodecError, CutlayerError, PeerLost, RemoteError
from cutlayer_core.record.record import Record, read_run
from cutlayer_core.samples import data
from cutlayer_core.wire import topics
from cutlayer_core.wire.chunks import Kind, parse_all
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import (
    Assignment,
    Begin,
    End,
    Message,
    Presence,
    Smashed,
    Tensor,
    Weights,
    decode,
    encode,
)
from cutlayer_core.wire.presence import will_of
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.transports import MemoryBroker
from cutlayer_device.training.agent import birth_of
from cutlayer_device.training.server_link import TrialFailed
from cutlayer_server.training.coordinator import Coordinator
from harness import Board, Killed, MortalTransport, digits_trial, run_trial, shares


class Puppet:
    """A device whose every word the test decides."""

    def __init__(self, broker, digits, trial, name):
        bundle = read_bundle(digits / "client.bundle")
        self.name, self.birth = name, birth_of(bundle, trial.name, name, 10)
        self.state = topics.state(trial.name, name)
        self.transport = broker.connect(will_of(self.state, self.birth))
        self.transport.subscribe(topics.down(trial.name, name))
        self.transport.subscribe(topics.control(trial.name))
        self.endpoint = Endpoint(Role.DEVICE, trial.name, self.transport, self.birth.epoch, self.meet)
        self.endpoint.conversations.open(name, None)
        self.server_epoch = 0

    def meet(self, server):
        self.server_epoch = server.epoch

    def announce(self, **changes):
        while not self.server_epoch:
            self.endpoint.pump(0.1)
        birth = msgspec.structs.replace(self.birth, server=self.server_epoch, **changes)
        self.transport.publish_retained(self.state, encode(Message(birth)))

    def hear(self, kind):
        message = self.endpoint.expect(self.name, 10.0)
        assert isinstance(message.header, kind)
        return message.header

    def begin(self):
        self.announce()
        self.hear(Assignment)
        self.hear(Begin)

    def smash(self, shape=(4, 16, 4, 4), labels=b"\0\0" * 4, codec="fp8", payload=None, exponent=0):
        tensor = Tensor(codec, {"exponent": exponent}, shape)
        payload = bytes(int(np.prod(shape))) if payload is None else payload
        self.endpoint.conversations.send(self.name, Smashed(epoch=0, step=0, tensor=tensor, labels=labels), payload)


class Server(threading.Thread):
    """The coordinator in a thread."""

    def __init__(self, broker, digits, trial, run_dir, dies_after=None):
        super().__init__(daemon=True)
        self.dies_after = dies_after
        test = data.load(digits / trial.data.test, trial.model.input, part="test")
        self.coordinator, self.record = Coordinator(trial, test), Record(run_dir, "")
        self.broker, self.missing, self.error = broker, [], None

    def run(self):
        try:
            self.coordinator.run(self.connect, self.record, self.missing.append)
        except (Exception, Killed) as error:
            self.error = error

    def connect(self, will):
        transport = self.broker.connect(will)
        return transport if self.dies_after is None else MortalTransport(transport, self.dies_after)

    def await_missing(self, names):
        deadline = time.monotonic() + 10
        while not self.missing or self.missing[-1] != names:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def trial(digits):
    return digits_trial(digits, devices=("board-1",), epochs=1, patience_s=1.0)


@pytest.fixture
def server(digits, tmp_path, trial):
    running = Server(MemoryBroker(), digits, trial, tmp_path / "run")
    running.start()
    yield running
    running.join(timeout=15)
    assert not running.is_alive()


def puppet(server, digits, trial, name="board-1"):
    return Puppet(server.broker, digits, trial, name)


def test_a_device_that_dies_in_its_pass_is_named_within_the_patience(server, digits, trial, tmp_path):
    device = puppet(server, digits, trial)
    device.begin()
    start = time.monotonic()
    device.transport.die()
    server.join(timeout=10)
    assert isinstance(server.error, PeerLost)
    assert "board-1 is gone: it was killed, or lost power or network" in str(server.error)
    assert time.monotonic() - start < 2 * trial.patience_s
    run = read_run(tmp_path / "run")
    assert not run.summary.ok
    assert "board-1 is gone" in run.summary.reason


def test_a_device_that_falls_silent_is_given_up_after_the_patience(server, digits, trial):
    puppet(server, digits, trial).begin()
    server.join(timeout=10)
    assert "nothing was heard from board-1 for 1 s" in str(server.error)


def test_a_device_that_starts_anew_in_its_pass_is_taken_up_again(server, digits, trial, tmp_path):
    device = puppet(server, digits, trial)
    device.begin()
    device.announce(epoch=device.birth.epoch + 1)
    again = puppet(server, digits, trial)
    while again.server_epoch in (0, device.server_epoch):
        again.endpoint.pump(0.1)
    again.begin()
    again.transport.die()
    server.join(timeout=10)
    assert "board-1 is gone" in str(server.error)
    assert read_run(tmp_path / "run").summary.resumed == 1


def test_an_old_will_does_not_end_a_new_process(server, digits, trial):
    device = puppet(server, digits, trial)
    device.begin()
    device.announce(epoch=device.birth.epoch + 1, online=False)
    device.smash()
    device.endpoint.expect("board-1", 5.0)
    device.transport.die()


def test_a_device_may_come_and_go_before_the_trial_begins(digits, tmp_path):
    trial = digits_trial(digits, epochs=1, patience_s=1.0)
    server = Server(MemoryBroker(), digits, trial, tmp_path / "run")
    server.start()
    first = puppet(server, digits, trial)
    first.announce()
    server.await_missing(["board-2"])
    first.transport.die()
    server.await_missing(["board-1", "board-2"])
    again = puppet(server, digits, trial)
    again.announce()
    server.await_missing(["board-2"])
    puppet(server, digits, trial, "board-2").announce()
    again.hear(Assignment)
    again.hear(Begin)
    again.transport.die()
    server.join(timeout=10)
    assert isinstance(server.error, PeerLost)


def test_a_device_with_another_model_is_refused_with_the_way_out(server, digits, trial):
    stale = puppet(server, digits, trial)
    stale.announce(bundle="0" * 64)
    end = stale.hear(End)
    assert not end.ok
    assert "another model, data or optimizer than the trial file: export again" in end.reason
    right = puppet(server, digits, trial)
    right.birth = msgspec.structs.replace(right.birth, epoch=right.birth.epoch + 1)
    right.begin()
    right.announce(epoch=right.birth.epoch, online=False)


def test_a_device_that_the_trial_does_not_name_is_ignored(server, digits, trial):
    puppet(server, digits, trial, "stranger").announce()
    device = puppet(server, digits, trial)
    device.begin()
    device.transport.die()


@pytest.mark.parametrize(
    ("sent", "error", "message"),
    [
        ({"codec": "raw"}, CodecError, "board-1 sent smashed data .* encoded as 'raw', the trial uses 'fp8'"),
        ({"shape": (4, 8, 4, 4)}, RemoteError, r"shape \(4, 8, 4, 4\)"),
        ({"shape": (33, 16, 4, 4), "labels": b"\0\0" * 33}, RemoteError, "up to 32"),
        ({"labels": b"\0\0"}, RemoteError, "2 bytes of labels for 4 samples"),
        ({"labels": b"\x0a\0" * 4}, RemoteError, "a label 10 was sent, the model has 10 classes"),
        ({"payload": b"short"}, CodecError, "does not fit"),
        ({"payload": b"\x7e" * 4 * 256, "exponent": 60}, RemoteError, r"not finite, or above 1e\+06"),
    ],
)
def test_smashed_data_that_do_not_fit_end_the_trial_for_all_with_the_reason(
    server, digits, trial, sent, error, message
):
    device = puppet(server, digits, trial)
    device.begin()
    device.smash(**sent)
    end = device.hear(End)
    assert not end.ok
    server.join(timeout=10)
    assert isinstance(server.error, error)
    import re

    assert re.search(message, str(server.error))
    assert re.search(message, end.reason)


def test_a_device_is_told_when_another_one_died(digits, tmp_path):
    trial = digits_trial(digits, epochs=50, patience_s=2.0)
    broker, bundle = MemoryBroker(), read_bundle(digits / "client.bundle")
    server = Server(broker, digits, trial, tmp_path / "run")
    boards = [Board(broker, bundle, trial, name, samples, tmp_path) for name, samples in shares(digits, trial).items()]
    for thread in (server, *boards):
        thread.start()
    time.sleep(1.0)
    boards[0].transport.die()
    for thread in (server, boards[1]):
        thread.join(timeout=15)
    assert isinstance(boards[1].outcome, TrialFailed)
    assert "board-1 is gone" in str(boards[1].outcome)


def test_a_device_notices_that_the_server_died_and_does_not_come_back(digits, trial, tmp_path):
    server = Server(MemoryBroker(), digits, trial, tmp_path / "run", dies_after=20)
    server.start()
    samples = shares(digits, trial)["board-1"]
    board = Board(server.broker, read_bundle(digits / "client.bundle"), trial, "board-1", samples, tmp_path)
    board.start()
    board.join(timeout=10)
    assert isinstance(server.error, Killed)
    assert isinstance(board.outcome, PeerLost)
    assert "the server left without ending the trial" in str(board.outcome)


def test_a_finished_trial_says_so_to_everyone(digits, tmp_path):
    run, boards = run_trial(digits, digits_trial(digits, epochs=1), tmp_path / "run")
    assert run.summary.ok
    assert [board.outcome for board in boards] == ["all 1 epochs are done"] * 2


def test_the_target_ends_the_trial_early(digits, tmp_path):
    run, _ = run_trial(digits, digits_trial(digits, epochs=40, target_accuracy=0.5), tmp_path / "run")
    assert run.summary.epochs < 10
    assert "reached the target of 50.0%" in run.summary.reason


def test_a_device_that_was_cut_off_for_a_moment_goes_on(digits, tmp_path, caplog):
    """Its last will arrives, then its birth again, as a transport repeats it on a new connection."""
    trial = digits_trial(digits, devices=("board-1",), epochs=30, patience_s=5.0)
    broker = MemoryBroker()
    server = Server(broker, digits, trial, tmp_path / "run")
    samples = shares(digits, trial)["board-1"]
    board = Board(broker, read_bundle(digits / "client.bundle"), trial, "board-1", samples, tmp_path)
    server.start()
    board.start()
    time.sleep(1.0)
    observer, state = broker.connect(), topics.state(trial.name, "board-1")
    observer.subscribe(state)
    birth = decode(observer.receive(1.0).payload).header
    observer.publish_retained(*will_of(state, birth))
    time.sleep(0.2)
    observer.publish_retained(state, encode(Message(birth)))
    server.join(timeout=30)
    assert server.error is None
    assert read_run(tmp_path / "run").summary.epochs == 30
    assert [line for line in ("went offline", "is back") if line in caplog.text] == ["went offline", "is back"]


def test_a_device_under_a_name_that_the_trial_lacks_is_told_at_once(server, digits, trial):
    stranger = puppet(server, digits, trial, "bord-1")
    stranger.announce()
    end = stranger.hear(End)
    assert not end.ok
    assert "the trial lists board-1 and no 'bord-1': give it --name" in end.reason
    device = puppet(server, digits, trial)
    device.begin()
    device.transport.die()


def test_a_second_device_of_the_same_name_steps_back(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("cutlayer_core.wire.endpoint._LONGEST_WILL_S", 0.5)
    monkeypatch.setattr(Endpoint.claim, "__defaults__", (0.5, 0))
    trial = digits_trial(digits, devices=("board-1",), epochs=40, patience_s=5.0)
    broker, bundle = MemoryBroker(), read_bundle(digits / "client.bundle")
    (samples,) = shares(digits, trial).values()
    server = Server(broker, digits, trial, tmp_path / "run")
    first, second = (Board(broker, bundle, trial, "board-1", samples, tmp_path / name) for name in "ab")
    first.start()
    time.sleep(0.5)
    second.start()
    server.start()
    for thread in (second, first, server):
        thread.join(timeout=30)
    assert "there is another device named 'board-1' on this broker" in str(second.outcome)
    assert first.outcome == "all 40 epochs are done"


def test_a_second_server_of_the_same_trial_steps_back(server, digits, trial, tmp_path, monkeypatch):
    monkeypatch.setattr(Endpoint.claim, "__defaults__", (0.5, 0))
    server.await_missing(["board-1"])
    second = Server(server.broker, digits, trial, tmp_path / "second")
    second.start()
    second.join(timeout=10)
    assert "there is another server of this trial on this broker" in str(second.error)
    device = puppet(server, digits, trial)
    device.begin()
    device.transport.die()


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"steps": 0}, "ended its pass without sending a batch"),
        ({"phases_s": {"forward": float("nan")}}, "times of its phases that cannot be"),
        ({"payload": "nan"}, "client weights that are not finite"),
    ],
)
def test_the_end_of_a_pass_is_not_believed_blindly(server, digits, trial, tmp_path, sent, message):
    device = puppet(server, digits, trial)
    device.announce()
    device.hear(Assignment)
    begin = device.endpoint.expect("board-1", 10.0)
    steps, payload = sent.get("steps", 1), begin.payload
    if "payload" in sent:
        payload = bytes(payload[:-4]) + np.float32(np.nan).tobytes()
    if steps:
        device.smash()
        device.endpoint.expect("board-1", 10.0)
    weights = Weights(epoch=0, steps=steps, phases_s=sent.get("phases_s", {}))
    device.endpoint.conversations.send("board-1", weights, payload)
    assert message in device.hear(End).reason
    server.join(timeout=10)
    assert message in str(server.error)
    assert message in read_run(tmp_path / "run").summary.reason


def test_smashed_data_that_are_not_finite_are_refused(server, digits, trial):
    device = puppet(server, digits, trial)
    device.begin()
    device.smash(payload=b"\x7f" * 4 * 256)
    assert "smashed data that are not finite" in device.hear(End).reason


def test_a_training_that_diverges_says_so_and_leaves_a_record(digits, tmp_path):
    trial = digits_trial(digits, epochs=3)
    wild = msgspec.structs.replace(trial.optimizer.server, learning_rate=1e12)
    trial = msgspec.structs.replace(trial, optimizer=msgspec.structs.replace(trial.optimizer, server=wild))
    with pytest.raises(CutlayerError, match=r"lower the (learning rates|client's learning rate)"):
        run_trial(digits, trial, tmp_path / "run")
    summary = read_run(tmp_path / "run").summary
    assert "lower the " in summary.reason
    assert len(summary.quarantined) == 1  # the first to be suspected; then there was only one left


def test_a_server_takes_the_place_of_its_run_s_earlier_one_whose_will_never_came(digits, trial, tmp_path):
    """A broker that lost power with the server, and kept the birth on its disk."""
    broker = MemoryBroker()
    ghost = Presence(trial=trial.name, device="all", online=True, epoch=77)
    broker.connect().publish_retained(topics.control(trial.name), encode(Message(ghost)))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "server").write_text("77")
    server = Server(broker, digits, trial, tmp_path / "run")
    began = time.monotonic()
    server.start()
    device = puppet(server, digits, trial)
    while device.server_epoch in (0, 77):
        device.endpoint.pump(0.1)
    device.begin()
    assert time.monotonic() - began < 5
    device.transport.die()
    server.join(timeout=10)


class DiesAtTheEnd:
    """A board's transport whose process is killed when it would hear the end."""

    def __init__(self, transport):
        self._transport, self._dead = transport, False

    def receive(self, timeout_s):
        packet = self._transport.receive(timeout_s)
        if packet and packet.topic.endswith("/down"):
            for chunk in parse_all(packet.payload):
                if chunk.kind is Kind.DATA and b"are done" in bytes(chunk.body):
                    self._dead = True
                    self._transport.die()
                    raise Killed
        return packet

    def publish_retained(self, topic, payload):
        if not self._dead:
            self._transport.publish_retained(topic, payload)

    def __getattr__(self, name):
        return getattr(self._transport, name)


def test_a_board_that_is_killed_before_it_hears_the_end_learns_it_in_its_next_life(digits, trial, tmp_path):
    """Also without a state on its disk, since it never had to keep one."""
    server = Server(MemoryBroker(), digits, msgspec.structs.replace(trial, checkpoint_s=1000.0), tmp_path / "run")
    samples, bundle = shares(digits, trial)["board-1"], read_bundle(digits / "client.bundle")
    lives = []

    class Broker:
        def connect(self, will):
            lives.append(server.broker.connect(will))
            return DiesAtTheEnd(lives[0]) if len(lives) == 1 else lives[-1]

    board = Board(Broker(), bundle, trial, "board-1", samples, tmp_path)
    server.start()
    board.start()
    for thread in (server, board):
        thread.join(timeout=20)
    assert server.error is None
    assert (len(lives), board.outcome) == (2, "all 1 epochs are done")
