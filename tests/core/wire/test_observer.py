"""What an onlooker makes of a trial's packets."""

import pytest

from cutlayer_core.schedules import Mode
from cutlayer_core.wire import topics
from cutlayer_core.wire.messages import Begin, Gradient, Message, Presence, Smashed, Tensor, Weights, encode
from cutlayer_core.wire.observer import Observer
from cutlayer_core.wire.session import Role, Session

TENSOR = Tensor("raw", {}, (1,))


class Scene:
    """A server and a device whose packets an observer sees."""

    def __init__(self, assignment):
        self.observer, self.now = Observer("t", ("a", "b")), 10.0
        self.ends = {
            Role.SERVER: Session(Role.SERVER, "t", "a", 1, 2),
            Role.DEVICE: Session(Role.DEVICE, "t", "a", 2, 1),
        }
        self.present("all", topics.control("t"), epoch=1)
        self.present("a", topics.state("t", "a"), epoch=2, server=1, samples=7)
        self.say(Role.SERVER, assignment)

    def present(self, device, topic, **fields):
        presence = Presence(trial="t", device=device, **{"online": True, **fields})
        self.observer.take(topic, encode(Message(presence)), self.now)

    def say(self, role, header, payload=b"", *, lost=False):
        self.ends[role].send(Message(header, payload))
        self.pass_on(role, lost=lost)

    def pass_on(self, role, *, lost=False):
        for speaker in (role, role.peer):
            route = topics.up if speaker is Role.DEVICE else topics.down
            for frame in self.ends[speaker].frames_to_send(self.now):
                self.observer.take(route("t", "a"), frame, self.now)
                if not lost:
                    self.ends[speaker.peer].receive(frame, self.now)
            self.now += 0.02

    def status(self, name="a"):
        return next(each for each in self.observer.statuses(self.now) if each.device == name)


@pytest.fixture
def scene(assignment):
    return Scene(assignment)


def test_a_pass_is_followed_step_by_step(scene):
    assert (scene.status().state, scene.status().samples) == ("idle", 7)
    scene.say(Role.SERVER, Begin(epoch=3, mode=Mode.EXCHANGE, steps=5), bytes(300_000))
    assert (scene.status().state, scene.status().epoch, scene.status().step) == ("training", 4, 5)
    scene.say(Role.DEVICE, Smashed(epoch=3, step=5, tensor=TENSOR, labels=b""), bytes(1000))
    scene.say(Role.SERVER, Gradient(epoch=3, step=5, tensor=TENSOR, loss=0.0))
    assert scene.status().step == 6
    scene.say(Role.DEVICE, Weights(epoch=3, steps=6, phases_s={}))
    assert scene.status().state == "idle"


def test_the_link_is_judged_by_acknowledgements_and_repetitions(scene):
    scene.say(Role.SERVER, Begin(epoch=0, mode=Mode.EXCHANGE), bytes(200_000))
    assert scene.status().round_trip_ms == pytest.approx(20, abs=1)
    assert scene.status().repeated == 0
    assert scene.status().backlog_bytes == 0
    scene.say(Role.DEVICE, Smashed(epoch=0, step=0, tensor=TENSOR, labels=b""), bytes(1000), lost=True)
    assert scene.status().backlog_bytes > 1000
    scene.now += 5
    scene.pass_on(Role.DEVICE)
    assert scene.status().repeated > 0
    assert scene.status().backlog_bytes == 0
    assert scene.status().up_kb_s > 0
    assert scene.status().round_trip_ms == pytest.approx(20, abs=1)
    assert scene.status().down_kb_s < 0.01  # longer ago than the window


def test_coming_and_going(scene):
    assert scene.status("b").state == "offline"
    scene.present("b", topics.state("t", "b"), epoch=9)
    assert scene.status("b").state == "waiting"
    assert scene.status("b").last_seen_s is None  # what is retained may be old
    scene.present("b", topics.state("t", "b"), epoch=9, server=1)
    scene.now += 3
    assert (scene.status("b").state, scene.status("b").last_seen_s) == ("idle", 3)
    scene.present("all", topics.control("t"), epoch=4)
    assert scene.status("b").state == "waiting"
    scene.present("b", topics.state("t", "b"), epoch=9, online=False)
    assert scene.status("b").state == "offline"


def test_foreign_packets_are_passed_over(scene):
    before = scene.observer.statuses(scene.now)
    scene.observer.take(topics.state("t", "a"), b"\xff" * 40, scene.now)
    scene.observer.take(topics.control("t"), encode(Message(Weights(epoch=0, steps=0, phases_s={}))), scene.now)
    assert scene.observer.statuses(scene.now) == before
    scene.observer.take(topics.up("t", "c"), b"nonsense", scene.now)
    assert scene.status("c").state == "offline"


def test_an_onlooker_that_misses_acknowledgements_follows_on(scene):
    scene.say(Role.SERVER, Begin(epoch=0, mode=Mode.FORWARD))
    for step in range(400):
        message = Message(Smashed(epoch=0, step=step, tensor=TENSOR, labels=b"\0\0"), b"1234")
        scene.ends[Role.DEVICE].send(message)
        for frame in scene.ends[Role.DEVICE].frames_to_send(scene.now):
            scene.observer.take(topics.up("t", "a"), frame, scene.now)
            scene.ends[Role.SERVER].receive(frame, scene.now)
        scene.ends[Role.SERVER].next_event()
        for frame in scene.ends[Role.SERVER].frames_to_send(scene.now):
            scene.ends[Role.DEVICE].receive(frame, scene.now)
    assert scene.status().step == 400
