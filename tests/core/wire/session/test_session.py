import msgspec
import pytest

from cutlayer_core.errors import ChunkError, LocalProtocolError, MessageError, RemoteProtocolError
from cutlayer_core.schedules import Mode
from cutlayer_core.wire.messages import Begin, End, Message, Smashed, Tensor, Weights, encode
from cutlayer_core.wire.session import Link, Role, Session, State


class Pair:
    """A device and a server in memory."""

    def __init__(self):
        self.server = Session(Role.SERVER, "trial", "board", sender_epoch=1)
        self.device = Session(Role.DEVICE, "trial", "board", sender_epoch=2)
        self.now = 0.0

    def settle(self):
        """Until neither side has anything to say, also when acknowledgements no longer wait for an answer."""
        quiet_at = self.now
        while self.now < quiet_at + 0.05:
            now = self.now
            down, up = self.server.frames_to_send(now), self.device.frames_to_send(now)
            if not down and not up:
                self.now += 0.03
            for frame in down:
                self.device.receive(frame, now)
            for frame in up:
                self.server.receive(frame, now)


@pytest.fixture
def pair():
    return Pair()


def test_messages_arrive_in_order_stamped_with_trial_and_device(pair, assignment):
    pair.server.send(Message(assignment))
    pair.server.send(Message(Begin(epoch=0, mode=Mode.EXCHANGE), b"weights"))
    pair.settle()
    first, second = pair.device.next_event(), pair.device.next_event()
    assert (first.header.trial, first.header.device, first.header.client) == ("trial", "board", 0)
    assert (second.header.epoch, second.payload) == (0, b"weights")
    assert pair.device.next_event() is None
    assert pair.device.state is pair.server.state is State.TRAINING
    assert pair.server.idle
    assert pair.device.idle


def test_what_must_not_be_said_is_not_sent(pair):
    with pytest.raises(LocalProtocolError, match="must not send"):
        pair.server.send(Message(Begin(epoch=0, mode=Mode.EXCHANGE)))
    assert pair.server.idle


def test_a_message_for_another_device_is_refused(pair, assignment):
    other = Session(Role.SERVER, "trial", "other-board", sender_epoch=1)
    other.send(Message(assignment))
    with pytest.raises(RemoteProtocolError, match="other-board"):
        pair.device.receive(other.frames_to_send(0.0)[0], 0.0)


def test_a_message_at_the_wrong_time_is_refused(pair, assignment):
    link = Link(sender_epoch=9)
    for _ in range(2):
        header = msgspec.structs.replace(assignment, trial="trial", device="board")
        link.send(encode(Message(header)))
    first, again = link.frames_to_send(0.0)
    pair.device.receive(first, 0.0)
    with pytest.raises(RemoteProtocolError, match="broke the protocol"):
        pair.device.receive(again, 0.0)


def test_a_foreign_frame_is_told_from_a_foreign_message(pair):
    with pytest.raises(ChunkError):
        pair.device.receive(b"not a frame", 0.0)
    link = Link(sender_epoch=5)
    link.send(b"\xff\xff\xff\xff not a message")
    with pytest.raises(MessageError):
        pair.device.receive(link.frames_to_send(0.0)[0], 0.0)


def test_deadlines_come_from_the_clock_that_is_passed_in(pair, assignment):
    assert pair.server.next_deadline() is None
    pair.server.send(Message(assignment))
    pair.server.frames_to_send(100.0)
    assert pair.server.next_deadline() == 101.0
    pair.server.reconnected()
    assert len(pair.server.frames_to_send(100.1)) == 1


def test_what_was_said_before_the_end_was_heard_is_dropped(pair, assignment):
    pair.server.send(Message(assignment))
    pair.server.send(Message(Begin(epoch=0, mode=Mode.EXCHANGE)))
    pair.settle()
    pair.device.send(Message(Weights(epoch=0, steps=0, phases_s={})))
    pair.server.send(Message(End(reason="stop")))
    pair.settle()
    assert pair.server.next_event() is None
    assert pair.server.idle
    assert pair.server.state is pair.device.state is State.CLOSED


def streaming(pair, assignment):
    """From now on the device may say as much as it likes."""
    pair.server.send(Message(assignment))
    pair.server.send(Message(Begin(epoch=0, mode=Mode.FORWARD)))
    pair.settle()


def take(session, frames):
    for frame in frames:
        session.receive(frame, 0.0)


def smashed(step):
    return Message(Smashed(epoch=0, step=step, tensor=Tensor("raw", {}, (1,)), labels=b""), b"1234")


def test_a_device_that_is_faster_than_its_server_is_made_to_pause(pair, assignment):
    streaming(pair, assignment)
    for step in range(20):
        pair.device.send(smashed(step))
    pair.settle()
    assert pair.device.backlog == 20  # four fill its window, and none is acknowledged
    taken = 0
    while pair.server.next_event() is not None:
        taken += 1
        pair.settle()
    assert taken == 20
    assert pair.device.idle


def test_a_device_that_does_not_pause_breaks_the_protocol(pair, assignment):
    streaming(pair, assignment)
    link = Link(sender_epoch=2)
    link._outgoing._next_id = pair.device._link._outgoing._next_id
    for step in range(20):
        header = msgspec.structs.replace(smashed(step).header, trial="trial", device="board")
        link.send(encode(Message(header, b"1234")))
    link._outgoing._window = 20
    with pytest.raises(RemoteProtocolError, match="sent message after message, though 16 wait to be taken"):
        take(pair.server, link.frames_to_send(0.0))


def test_a_flood_of_frames_that_bring_nothing_breaks_the_protocol(pair, assignment):
    streaming(pair, assignment)
    pair.device.send(smashed(0))
    (frame,) = pair.device.frames_to_send(0.0)
    with pytest.raises(RemoteProtocolError, match="1000 of its last 1000 frames brought nothing"):
        take(pair.server, [frame] * 2000)


def test_messages_travel_in_chunks_of_the_size_that_the_broker_takes(assignment):
    session = Session(Role.SERVER, "trial", "board", 1, chunk_bytes=100)
    session.send(Message(assignment))
    assert {len(frame) <= 132 for frame in session.frames_to_send(0.0)} == {True}
    assert session.backlog > 1


def test_large_messages_make_a_device_pause_sooner_and_are_bounded(pair, assignment, monkeypatch):
    monkeypatch.setattr("cutlayer_core.wire.session.session._ENOUGH_BYTES", 1000)
    monkeypatch.setattr("cutlayer_core.wire.session.session._MOST_BYTES", 2000)
    streaming(pair, assignment)
    large = [Message(smashed(step).header, bytes(900)) for step in range(3)]
    for message in large[:2]:
        pair.device.send(message)
    pair.settle()
    assert pair.device.backlog == 2  # more than enough
    pair.device.send(large[2])
    with pytest.raises(RemoteProtocolError, match="though 2 wait to be taken"):
        take(pair.server, pair.device.frames_to_send(pair.now))
