"""Two links joined by a network that loses, repeats, reorders and delays; time is a number that the test moves."""

import random
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer_core.errors import ChunkError, PeerStartedAnew
from cutlayer_core.wire.chunks import Kind, parse, parse_all, reset, split
from cutlayer_core.wire.session import Link


class Network:
    """Carries frames one way; each is lost, repeated or delayed as a seeded generator says."""

    def __init__(self, receiver, generator, loss, repeat, delay_s):
        self.receiver, self.generator = receiver, generator
        self.loss, self.repeat, self.delay_s = loss, repeat, delay_s
        self.travelling = []
        self.delivered = []

    def carry(self, frames, now):
        for frame in frames:
            if self.generator.random() < self.loss:
                continue
            for _ in range(1 + (self.generator.random() < self.repeat)):
                self.travelling.append((now + self.generator.random() * self.delay_s, frame))

    def arrive(self, now):
        due = sorted((item for item in self.travelling if item[0] <= now), key=lambda item: item[0])
        self.travelling = [item for item in self.travelling if item[0] > now]
        for _, frame in due:
            with suppress(ChunkError):  # no room for now: it is dropped, as an endpoint does, and will be sent again
                self.delivered += self.receiver.receive(frame, now)


def converse(messages, seed, loss=0.0, repeat=0.0, delay_s=0.0, chunk_bytes=50, until_s=2000.0):
    """Send ``messages`` one way over a faulty network; returns what arrived, and when all was settled."""
    generator = random.Random(seed)
    sender, receiver = Link(1, chunk_bytes=chunk_bytes), Link(2, chunk_bytes=chunk_bytes)
    there = Network(receiver, generator, loss, repeat, delay_s)
    back = Network(sender, generator, loss, repeat, delay_s)
    for message in messages:
        sender.send(message)
    now = 0.0
    while now < until_s and not (sender.idle and len(there.delivered) >= len(messages)):
        there.carry(sender.frames_to_send(now), now)
        there.arrive(now)
        back.carry(receiver.frames_to_send(now), now)
        back.arrive(now)
        now += 0.05
    return there.delivered, now


MESSAGES = [bytes([i]) * (1 + 37 * i) for i in range(20)]


def kinds(frames):
    """Kinds of the chunks in each frame."""
    return [[chunk.kind for chunk in parse_all(frame)] for frame in frames]


def test_a_good_network_delivers_in_order_without_waiting():
    delivered, took_s = converse(MESSAGES, seed=0)
    assert delivered == MESSAGES
    assert took_s < 3.0


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8),
    st.integers(0, 2**32),
    st.floats(0, 0.4),
    st.floats(0, 0.5),
    st.floats(0, 2.0),
)
def test_every_message_arrives_once_and_in_order_whatever_the_network_does(messages, seed, loss, repeat, delay_s):
    delivered, _ = converse(messages, seed, loss, repeat, delay_s)
    assert delivered == messages


def test_no_more_chunks_than_the_window_are_in_flight():
    link = Link(1, chunk_bytes=10, window=4)
    link.send(bytes(100))
    frames = link.frames_to_send(0.0)
    assert [parse(frame).index for frame in frames] == [0, 1, 2, 3]
    assert link.frames_to_send(0.5) == []
    link.receive(parse(frames[1]).acknowledgement().pack(), 0.5)
    assert [parse(frame).index for frame in link.frames_to_send(0.5)] == [0, 4]


def test_unacknowledged_chunks_are_repeated_after_a_growing_pause():
    link = Link(1)
    link.send(b"x")
    sent_at, now = [], 0.0
    while now < 20.0:
        if link.frames_to_send(now):
            sent_at.append(now)
        assert link.next_deadline() > now
        now = link.next_deadline()
    pauses = [b - a for a, b in pairwise(sent_at)]
    assert pauses == [1.0, 2.0, 4.0, 8.0]


def test_a_slow_network_is_given_more_time():
    link = Link(1)
    for number in range(60):
        link.send(b"x")
        (frame,) = link.frames_to_send(number * 10.0)
        link.receive(parse(frame).acknowledgement().pack(), number * 10.0 + 0.9)
    link.send(b"x")
    link.frames_to_send(1000.0)
    assert link.next_deadline() == pytest.approx(1003.6, abs=0.1)


def test_a_link_that_is_merely_slow_is_not_filled_with_copies():
    """1 MB over a line of 200 kbit/s, where the window alone takes 19 s: few chunks may be sent twice."""
    sender, receiver = Link(1), Link(2)
    sender.send(bytes(1_000_000))
    free_at, line, carried, now, delivered = 0.0, [], 0, 0.0, []
    while not delivered:
        for frame in sender.frames_to_send(now):
            free_at = max(free_at, now) + len(frame) * 8 / 200_000
            line.append((free_at, frame))
            carried += len(frame)
        while line and line[0][0] <= now:
            delivered += receiver.receive(line.pop(0)[1], now)
        for frame in receiver.frames_to_send(now):
            sender.receive(frame, now)
        now += 0.05
    assert carried < 1.6 * 1_000_000


def test_what_was_sent_before_an_acknowledged_chunk_is_repeated_at_once():
    sender, receiver = Link(1, chunk_bytes=10), Link(2)
    sender.send(bytes(40))
    frames = sender.frames_to_send(0.0)
    receiver.receive(frames[3], 0.0)
    sender.receive(receiver.frames_to_send(0.0)[0], 0.1)
    assert sender.frames_to_send(0.1) == frames[:3]


def test_a_new_connection_repeats_what_was_in_flight_at_once():
    link = Link(1)
    link.send(b"x")
    first = link.frames_to_send(0.0)
    link.resend()
    assert link.frames_to_send(0.01) == first


def test_an_acknowledgement_of_another_process_settles_nothing():
    link = Link(1)
    link.send(b"x")
    stale = next(split(b"x", sender_epoch=99, message_id=0)).acknowledgement()
    link.frames_to_send(0.0)
    link.receive(stale.pack(), 0.0)
    assert not link.idle


@pytest.mark.parametrize("announced", [7, None])
def test_frames_of_another_process_than_the_peers_are_refused(announced):
    receiver = Link(2, peer_epoch=announced)
    (first,), (other,) = (split(b"hello", sender_epoch=epoch, message_id=0) for epoch in (7, 8))
    assert receiver.receive(first.pack(), 0.0) == [b"hello"]
    with pytest.raises(ChunkError, match="another process"):
        receiver.receive(other.pack(), 0.0)


def test_a_repeated_message_is_acknowledged_again_and_not_delivered_again():
    receiver = Link(2)
    (chunk,) = split(b"hello", sender_epoch=7, message_id=0)
    assert receiver.receive(chunk.pack(), 0.0) == [b"hello"]
    for _ in range(2):
        (frame,) = receiver.frames_to_send(0.0)
        assert [answer.kind for answer in parse_all(frame)] == [Kind.ACK]
        assert receiver.receive(chunk.pack(), 0.0) == []


@pytest.mark.parametrize("answers", [0, 1, 2])
@pytest.mark.parametrize("owed", [1, 7, 8, 9, 14, 16, 23])
def test_however_many_acknowledgements_are_owed_all_of_them_are_read(owed, answers):
    """They pile up while a receiver makes its peer pause, and the peer sends again on a new connection."""
    asker, answerer = Link(1, window=30), Link(2)
    for _ in range(owed):
        asker.send(b"question")
    answerer.acknowledgements.held_back = True
    for frame in asker.frames_to_send(0.0):
        answerer.receive(frame, 0.0)
    assert answerer.frames_to_send(0.0) == []
    answerer.acknowledgements.held_back = False
    for _ in range(answers):
        answerer.send(b"answer")
    heard = [message for frame in answerer.frames_to_send(0.0) for message in asker.receive(frame, 0.0)]
    assert heard == [b"answer"] * answers
    assert asker.backlog == 0


def test_a_late_answer_makes_the_next_acknowledgement_wait_for_none():
    asker, answerer = Link(1), Link(2)
    answerer.acknowledgements._answers_at_once = True
    asker.send(b"question")
    answerer.receive(asker.frames_to_send(0.0)[0], 0.0)
    answerer.send(b"answer")
    assert len(answerer.frames_to_send(2.0)) == 1  # nobody looked at the clock meanwhile
    asker.send(b"question")
    answerer.receive(asker.frames_to_send(3.0)[0], 3.0)
    assert len(answerer.frames_to_send(3.0)) == 1
    answerer.acknowledgements._answers_at_once = True
    asker.send(b"question")
    answerer.receive(asker.frames_to_send(4.0)[0], 4.0)
    answerer.acknowledgements.expect_no_answer()
    assert len(answerer.frames_to_send(4.0)) == 1


def test_an_acknowledgement_travels_with_the_answer_where_one_follows_at_once():
    asker, answerer = Link(1), Link(2)

    def ask(now, pause):
        """Kinds of the chunks in each frame that comes back; the answer takes ``pause`` seconds."""
        asker.send(b"question")
        for frame in asker.frames_to_send(now):
            answerer.receive(frame, now)
        frames = answerer.frames_to_send(now)
        deadline = answerer.next_deadline()
        if deadline is not None and deadline <= now + pause:
            frames += answerer.frames_to_send(deadline)
        answerer.send(b"answer")
        frames += answerer.frames_to_send(now + pause)
        for frame in frames:
            asker.receive(frame, now + pause)
        asker.frames_to_send(now + pause)
        return kinds(frames)

    together, apart = [[Kind.ACK, Kind.DATA]], [[Kind.ACK], [Kind.DATA]]
    assert ask(0.0, 0.001) == apart  # nothing is known yet
    assert ask(1.0, 0.001) == together
    assert ask(2.0, 0.5) == apart  # it was waited for 20 ms
    assert ask(3.0, 0.5) == apart  # and not again
    assert ask(4.0, 0.001) == apart
    assert ask(5.0, 0.001) == together


def test_the_chunks_of_a_message_are_acknowledged_in_pairs_and_the_last_with_the_answer():
    asker, answerer = Link(1, chunk_bytes=10), Link(2)
    answerer.acknowledgements._answers_at_once = True
    asker.send(bytes(35))
    first, second, third, last = asker.frames_to_send(0.0)
    answerer.receive(first, 0.0)
    assert answerer.frames_to_send(0.0) == []
    answerer.receive(second, 0.001)
    assert kinds(answerer.frames_to_send(0.001)) == [[Kind.ACK, Kind.ACK]]
    answerer.receive(third, 0.002)
    answerer.receive(last, 0.015)
    assert answerer.frames_to_send(0.015) == []
    assert answerer.next_deadline() == pytest.approx(0.035)
    answerer.send(b"answer")
    assert kinds(answerer.frames_to_send(0.03)) == [[Kind.ACK, Kind.ACK, Kind.DATA]]


def test_a_slow_peer_is_told_of_each_chunk_and_of_the_last_with_the_answer_still():
    asker, answerer = Link(1, chunk_bytes=10), Link(2)
    answerer.acknowledgements._answers_at_once = True
    asker.send(bytes(25))
    *others, last = asker.frames_to_send(0.0)
    for number, frame in enumerate(others):
        answerer.receive(frame, float(number))
        assert answerer.frames_to_send(float(number)) == []
        assert kinds(answerer.frames_to_send(number + 0.02)) == [[Kind.ACK]]
    answerer.receive(last, 2.0)
    assert answerer.frames_to_send(2.0) == []
    answerer.send(b"answer")
    assert kinds(answerer.frames_to_send(2.01)) == [[Kind.ACK, Kind.DATA]]


def test_memory_for_unfinished_messages_is_bounded():
    receiver = Link(2)
    for message_id in range(1, 9):
        receiver.receive(next(split(bytes(100), 7, message_id, 50)).pack(), 0.0)
    with pytest.raises(ChunkError, match="before 8 others ended"):
        receiver.receive(next(split(bytes(100), 7, 9, 50)).pack(), 0.0)


def test_a_damaged_chunk_is_repeated_and_the_message_still_arrives():
    sender, receiver = Link(1, chunk_bytes=10), Link(2)
    sender.send(b"0123456789" * 2)
    first, second = sender.frames_to_send(0.0)
    receiver.receive(first, 0.0)
    with pytest.raises(ChunkError, match="damaged"):
        receiver.receive(second[:-1] + b"X", 0.0)
    for frame in receiver.frames_to_send(0.0):
        sender.receive(frame, 0.0)
    (again,) = sender.frames_to_send(5.0)
    assert receiver.receive(again, 5.0) == [b"0123456789" * 2]


def test_the_next_message_in_order_is_let_in_however_many_wait_for_it():
    receiver = Link(2)
    first, *others = ([chunk.pack() for chunk in split(b"x", 7, number)] for number in range(9))
    for (frame,) in others:
        receiver.receive(frame, 0.0)
    assert receiver.receive(first[0], 0.0) == [b"x"] * 9


@pytest.mark.parametrize("loss", [0.1, 0.25])
def test_a_hundred_messages_at_a_time_get_through(loss):
    messages = [bytes([number]) for number in range(100)]
    for seed in range(8):
        assert converse(messages, seed, loss=loss, delay_s=0.2)[0] == messages


def test_who_was_given_up_learns_it_and_another_process_does_not():
    link = Link(5)
    assert link.receive(reset(6), 0.0) == []
    with pytest.raises(PeerStartedAnew):
        link.receive(reset(5), 0.0)


def test_frames_that_bring_nothing_are_counted():
    receiver = Link(2)
    (chunk,) = split(b"hello", sender_epoch=7, message_id=0)
    receiver.receive(chunk.pack(), 0.0)
    assert (receiver.frames_taken, receiver.frames_idle) == (1, 0)
    receiver.receive(chunk.pack(), 0.0)
    receiver.receive(chunk.acknowledgement().pack(), 0.0)
    with pytest.raises(ChunkError):
        receiver.receive(b"nonsense", 0.0)
    assert (receiver.frames_taken, receiver.frames_idle) == (4, 3)
