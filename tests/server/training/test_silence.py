"""Passes that are kept on the disk, as long as the training or a checkpoint may read them."""

import pytest

from cutlayer_core.wire.messages import Message, Smashed, Tensor
from cutlayer_server.training.replay_buffer import ReplayBuffer
from cutlayer_server.training.silence import SilentPasses


@pytest.fixture
def silent(tmp_path):
    return SilentPasses(ReplayBuffer(tmp_path / "cache"))


def record(silent, device, epoch, steps=2):
    silent.buffer.begin(device, epoch, 0)
    for step in range(steps):
        header = Smashed(epoch=epoch, step=step, tensor=Tensor("raw", {}, (1,)), labels=b"\0\0")
        silent.buffer.add(device, Message(header, b"1234"))
    silent.buffer.end(device)


def kept(silent, tmp_path):
    return sorted(path.relative_to(tmp_path / "cache").as_posix() for path in (tmp_path / "cache").rglob("*.batches"))


def test_a_pass_is_played_back_from_any_step_and_ends_once(silent):
    record(silent, "a", 0, steps=3)
    silent.play("a", 0, 1)
    assert [silent.next_message("a").header.step for _ in range(2)] == [1, 2]
    assert silent.next_message("a") is None
    assert silent.next_message("a") is None


def test_what_a_checkpoint_builds_on_stays_until_two_newer_ones_are_written(silent, tmp_path):
    record(silent, "a", 0)
    silent.note_checkpoint({"a": 0})
    record(silent, "a", 1)
    for expected in (["a/0.batches", "a/1.batches"], ["a/1.batches"]):
        silent.note_checkpoint({"a": 1})
        silent.prune({"a": 1})
        assert kept(silent, tmp_path) == expected


def test_after_going_on_from_a_checkpoint_nothing_goes_until_two_are_known(silent, tmp_path):
    record(silent, "a", 0)
    record(silent, "a", 1)
    silent.forget_checkpoints()
    silent.prune({"a": 1})
    assert kept(silent, tmp_path) == ["a/0.batches", "a/1.batches"]
    for _ in range(2):
        silent.note_checkpoint({"a": 1})
    silent.prune({"a": 1})
    assert kept(silent, tmp_path) == ["a/1.batches"]


def test_a_pass_that_goes_on_is_not_pruned(silent, tmp_path):
    silent.buffer.begin("a", 5, 0)
    silent.prune({})
    assert kept(silent, tmp_path) == ["a/5.batches"]
