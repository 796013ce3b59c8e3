import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer_core.errors import ChunkError
from cutlayer_core.wire.chunks import MAX_MESSAGE_BYTES, Chunk, Kind
from cutlayer_core.wire.messages import Message, Shared
from cutlayer_core.wire.session import Audience, Speaker


def said(step, size=1000):
    return Message(Shared(trial=str(step)), np.random.default_rng(step).bytes(size))


def same(found, wanted):
    return found is not None and (found.header, bytes(found.payload)) == (wanted.header, wanted.payload)


def test_all_hear_what_was_said():
    speaker, audiences = Speaker(7, chunk_bytes=300), [Audience(7), Audience(7)]
    number, frames = speaker.frames(said(0))
    assert len(frames) > 3
    for audience in audiences:
        for frame in frames:
            audience.receive(frame)
        assert same(audience.take(number), said(0))
        assert audience.take(number) is None


@given(st.permutations(range(8)), st.lists(st.integers(0, 7), max_size=5))
def test_order_and_repetition_do_not_matter(order, repeated):
    speaker, audience = Speaker(7, chunk_bytes=500), Audience(7)
    messages = [speaker.frames(said(step, 1700)) for step in range(2)]
    frames = [frame for _, each in messages for frame in each]
    assert len(frames) == 8
    for place in [*order, *repeated]:
        audience.receive(frames[place])
    assert [same(audience.take(number), said(step, 1700)) for step, (number, _) in enumerate(messages)] == [True, True]


def test_a_message_of_which_a_part_was_lost_is_missing_and_no_other_stands_for_it():
    speaker, audience = Speaker(7, chunk_bytes=300), Audience(7)
    (lost, frames), (next_one, more) = speaker.frames(said(0)), speaker.frames(said(1))
    for frame in [*frames[:-1], *more]:
        audience.receive(frame)
    assert audience.take(lost) is None
    assert same(audience.take(next_one), said(1))


def test_frames_of_another_process_are_refused():
    _, frames = Speaker(8).frames(said(0))
    with pytest.raises(ChunkError, match="another process"):
        Audience(7).receive(frames[0])


def test_memory_is_bounded_by_the_size_of_a_message():
    audience = Audience(7)
    for number in range(20):
        begun = Chunk(Kind.DATA, 7, number, 0, 1000, MAX_MESSAGE_BYTES, memoryview(bytes(67109)))
        audience.receive(begun.pack())
        assert len(audience._partial) <= 1


def test_only_the_newest_are_kept():
    speaker, audience = Speaker(7), Audience(7)
    numbers = []
    for step in range(5):
        number, frames = speaker.frames(said(step))
        numbers.append(number)
        audience.receive(frames[0])
    assert [audience.take(number) is not None for number in numbers] == [False, False, False, True, True]
