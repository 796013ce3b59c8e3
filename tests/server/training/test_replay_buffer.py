import pytest

from cutlayer_core.codecs import Tensor
from cutlayer_core.errors import CutlayerError
from cutlayer_core.wire.messages import Message, Smashed
from cutlayer_server.training.replay_buffer import ReplayBuffer


def batch(step, size=100):
    return Message(Smashed(epoch=1, step=step, tensor=Tensor("raw", {}, (1,)), labels=b"\0\0"), bytes([step]) * size)


def steps(messages):
    return [message.header.step for message in messages]


@pytest.fixture
def cache(tmp_path):
    found = ReplayBuffer(tmp_path / "cache")
    found.begin("a", 1, 0)
    for step in range(5):
        found.add("a", batch(step))
    return found


def test_what_was_kept_is_read_as_it_came(cache):
    cache.end("a")
    found = list(cache.read("a", 1))
    assert steps(found) == [0, 1, 2, 3, 4]
    assert [bytes(each.payload) for each in found] == [bytes([step]) * 100 for step in range(5)]
    assert steps(cache.read("a", 1, start=3)) == [3, 4]
    assert steps(cache.read("a", 1, start=5)) == []


def test_a_pass_is_gone_on_with_where_it_stood(cache, tmp_path):
    cache.sync()
    again = ReplayBuffer(tmp_path / "cache")
    again.begin("a", 1, 3)
    again.add("a", batch(9))
    again.end("a")
    assert steps(again.read("a", 1)) == [0, 1, 2, 9]


def test_a_pass_that_begins_anew_forgets_the_first_attempt(cache):
    cache.begin("a", 1, 0)
    cache.add("a", batch(7))
    cache.end("a")
    assert steps(cache.read("a", 1)) == [7]


def test_only_passes_that_are_needed_stay(cache, tmp_path):
    cache.end("a")
    for device, epoch in (("a", 4), ("b", 2), ("b", 3)):
        cache.begin(device, epoch, 0)
        cache.add(device, batch(0))
    assert cache.going_on == {("a", 4), ("b", 3)}
    cache.keep_only({("a", 1), *cache.going_on})
    found = {path.relative_to(tmp_path / "cache").as_posix() for path in (tmp_path / "cache").glob("*/*")}
    assert found == {"a/1.batches", "a/4.batches", "b/3.batches"}


def test_what_is_not_there_or_damaged_is_said(cache, tmp_path):
    cache.end("a")
    path = tmp_path / "cache" / "a" / "1.batches"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CutlayerError, match="start the trial anew"):
        list(cache.read("a", 1))
    with pytest.raises(CutlayerError, match="start the trial anew"):
        cache.begin("a", 1, 5)
    with pytest.raises(CutlayerError, match="start the trial anew"):
        list(cache.read("b", 1))
