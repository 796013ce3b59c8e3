"""The record of a real trial: its numbers against what can be counted another way."""

import pytest
import torch
from safetensors.torch import load_file

from cutlayer_core.errors import UserError
from cutlayer_core.record.events import ClientPass, Ended, EpochDone, Started, Step
from cutlayer_core.record.record import Record, free_run_dir, read_run
from cutlayer_core.samples import data
from cutlayer_core.wire.transports import MemoryBroker
from cutlayer_cut import build_model
from cutlayer_server.model.server_model import evaluate
from harness import digits_trial, run_trial, shares


@pytest.fixture(scope="module")
def trial(digits):
    return digits_trial(digits, epochs=2)


@pytest.fixture(scope="module")
def counted(digits, tmp_path_factory, trial):
    """A run, and the bytes that the broker saw on its data topics."""
    seen = {"up": 0, "down": 0}

    def count(packet):
        seen[packet.topic.rsplit("/", 1)[1]] += packet.wire_bytes
        return [packet]

    run, _ = run_trial(digits, trial, tmp_path_factory.mktemp("run") / "r", MemoryBroker(count))
    return run, seen


def test_bytes_in_the_record_are_those_that_the_broker_saw(counted):
    """All but what is said before the first epoch and after the last: two assignments, accounts and farewells."""
    run, seen = counted
    assert run.summary.up_bytes == pytest.approx(seen["up"], abs=1000)
    assert run.summary.down_bytes == pytest.approx(seen["down"], abs=1300)


def test_payloads_are_one_byte_an_entry_and_float32_would_be_four(counted, digits, trial):
    run, _ = counted
    samples = sum(len(each.y) for each in shares(digits, trial).values())
    assert run.summary.up_payload_bytes == trial.epochs * samples * 256
    assert run.summary.down_payload_bytes == run.summary.up_payload_bytes
    assert run.summary.raw_payload_bytes == 4 * run.summary.up_payload_bytes


def test_every_step_is_recorded_once_in_order(counted, digits, trial):
    run, _ = counted
    steps = [(each.epoch, each.device, each.step) for each in run.all(Step)]
    per_device = {name: -(-len(each.y) // 32) for name, each in shares(digits, trial).items()}
    assert steps == [(e, name, k) for e in range(2) for name, count in per_device.items() for k in range(count)]
    assert run.all(Started)[0].devices == {name: len(each.y) for name, each in shares(digits, trial).items()}
    assert [each.steps for each in run.all(EpochDone)] == [sum(per_device.values())] * 2


def test_phases_are_recorded_and_never_exceed_the_time_that_passed(counted):
    run, _ = counted
    for done in run.all(EpochDone):
        assert set(done.phases_s) - {"checkpoint"} == {"wait", "decode", "train", "encode", "send"}
        assert 0 < sum(done.phases_s.values()) <= done.duration_s
    for each in run.all(ClientPass):
        assert set(each.phases_s) == {"load", "forward", "encode", "send", "network", "server", "decode", "backward"}


def test_the_saved_model_is_the_users_own_and_as_good_as_the_record_says(counted, digits, trial):
    run, _ = counted
    model = build_model(trial.model, trial.seeds.weights)
    model.load_state_dict(load_file(run.path / "model.safetensors"))
    test = data.load(digits / "test.npz", trial.model.input, part="test")
    prepare = data.Preparation(trial.model.input, trial.data.mean, trial.data.std)
    found = evaluate(model, torch.nn.Identity(), data.whole(test, prepare, 100))
    assert found.accuracy == run.summary.test_accuracy


def test_resuming_finds_the_newest_run_unless_it_is_over(tmp_path):
    assert free_run_dir(tmp_path, "t", resume=True) == tmp_path / "t"
    for name, ok in (("t", True), ("t-2", False)):
        record = Record(tmp_path / name, "")
        record.write(Ended(time_s=0.0, ok=ok, reason="for a test"))
        record.close(name)
    assert free_run_dir(tmp_path, "t", resume=True) == tmp_path / "t-2"
    assert free_run_dir(tmp_path, "t") == tmp_path / "t-3"
    Record(tmp_path / "t-2", "", resume=True).close("t-2")
    with pytest.raises(UserError, match=r"already holds a run: go on with it by --resume"):
        Record(tmp_path / "t-2", "")


def test_what_a_power_cut_left_half_written_is_dropped(tmp_path):
    record = Record(tmp_path / "r", "")
    record.write(Started(time_s=0.5, devices={"a": 3}))
    record.close("r")
    with (tmp_path / "r" / "events.jsonl").open("ab") as file:
        file.write(b'{"event":"started","time' + bytes(40) + b"\n")
    resumed = Record(tmp_path / "r", "", resume=True)
    assert resumed.count == 1
    assert resumed.devices() == {"a": 3}
    resumed.write(Ended(time_s=1.0, ok=True, reason="done"))
    resumed.close("r")
    assert [type(event) for event in read_run(tmp_path / "r").events] == [Started, Ended]
    with pytest.raises(UserError, match="this run is over: done"):
        Record(tmp_path / "r", "", resume=True)
    with pytest.raises(UserError, match="the trial file has changed"):
        Record(tmp_path / "r", "other", resume=True)
