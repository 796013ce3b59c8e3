"""Two endpoints over a memory broker that loses and repeats packets."""

import random
import threading

import msgspec
import pytest

from cutlayer_core.errors import PeerLost, PeerStartedAnew, RemoteProtocolError
from cutlayer_core.schedules import Mode
from cutlayer_core.wire import topics
from cutlayer_core.wire.chunks import reset, split
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import Begin, Message, Presence, Smashed, Tensor, decode, encode
from cutlayer_core.wire.presence import will_of
from cutlayer_core.wire.session import Link, Role
from cutlayer_core.wire.transports import MemoryBroker

TENSOR = Tensor("raw", {}, (1,))


def ignore(_presence):
    pass


def server_on(broker, on_presence=ignore, devices=("a",)):
    transport = broker.connect()
    endpoint = Endpoint(Role.SERVER, "t", transport, 1, on_presence)
    transport.subscribe(topics.every_up("t"))
    transport.subscribe(topics.every_state("t"))
    for device in devices:
        endpoint.conversations.open(device)
    return endpoint


def device_on(broker, name="a", trial="t"):
    transport = broker.connect()
    endpoint = Endpoint(Role.DEVICE, trial, transport, 2, ignore)
    transport.subscribe(topics.down(trial, name))
    endpoint.conversations.open(name)
    return endpoint


def test_messages_pass_both_ways_and_their_bytes_are_counted_alike(assignment):
    broker = MemoryBroker()
    server, device = server_on(broker), device_on(broker)
    server.conversations.send("a", assignment)
    server.conversations.send("a", Begin(epoch=0, mode=Mode.EXCHANGE), b"weights" * 100_000)
    assert device.expect("a", 1.0).header.client == 0
    helper = threading.Thread(target=server.drain, args=(5.0,))
    helper.start()
    assert len(device.expect("a", 5.0).payload) == 700_000
    helper.join()
    device.conversations.send("a", Smashed(epoch=0, step=0, tensor=TENSOR, labels=b"\0\0"), b"1234")
    assert server.expect("a", 1.0).payload == b"1234"
    device.drain(1.0)
    assert server.transport.sent_bytes == device.transport.received_bytes
    assert device.transport.sent_bytes == server.transport.received_bytes
    assert server.transport.sent_bytes["a"] > 700_000


def test_loss_and_repetition_on_the_way_do_not_show(assignment):
    generator = random.Random(1)
    broker = MemoryBroker(lambda packet: [packet] * generator.choice([0, 1, 1, 1, 2]))
    server, device = server_on(broker), device_on(broker)
    heard, settled = [], threading.Event()

    def listen():
        heard.extend(device.expect("a", 60.0) for _ in range(2))
        while not settled.is_set():  # the last acknowledgement may be lost, too
            device.pump(0.05)

    helper = threading.Thread(target=listen)
    helper.start()
    server.conversations.send("a", assignment)
    server.conversations.send("a", Begin(epoch=0, mode=Mode.EXCHANGE), bytes(300_000))
    assert server.drain(60.0)
    settled.set()
    helper.join()
    assert [len(message.payload) for message in heard] == [0, 300_000]


def test_messages_of_other_devices_wait_for_their_turn(assignment):
    broker = MemoryBroker()
    server = server_on(broker, devices=("a", "b"))
    for name in "ab":
        device = device_on(broker, name)
        server.conversations.send(name, assignment)
        server.conversations.send(name, Begin(epoch=0, mode=Mode.EXCHANGE))
        device.expect(name, 1.0)
        device.expect(name, 1.0)
        device.conversations.send(name, Smashed(epoch=0, step=0, tensor=TENSOR, labels=b"\0\0"), name.encode())
    assert server.expect("b", 1.0).payload == b"b"
    assert server.expect("a", 1.0).payload == b"a"


def test_silence_beyond_the_patience_is_a_lost_peer():
    server = server_on(MemoryBroker())
    with pytest.raises(PeerLost, match=r"nothing was heard from a for 0\.05 s"):
        server.expect("a", 0.05)


def test_births_and_wills_are_handed_on_and_others_are_not():
    broker, seen = MemoryBroker(), []
    server = server_on(broker, seen.append)
    birth = Presence(trial="t", device="a", online=True, epoch=5, samples=3)
    device = broker.connect(will_of(topics.state("t", "a"), birth))
    device.publish_retained(topics.state("t", "a"), encode(Message(birth)))
    forged = encode(Message(Presence(trial="t", device="b", online=True, epoch=5)))
    device.publish_retained(topics.state("t", "a"), forged)
    device.publish_retained(topics.state("t", "a"), b"\xff not a message")
    device.die()
    for _ in range(4):
        server.pump(0.5)
    assert [(each.device, each.online, each.epoch) for each in seen] == [("a", True, 5), ("a", False, 5)]


def test_foreign_frames_are_dropped_and_the_conversation_goes_on(assignment):
    broker = MemoryBroker()
    server, device = server_on(broker), device_on(broker)
    broker.connect().publish(topics.down("t", "a"), b"nonsense")
    broker.connect().publish(topics.up("t", "stranger"), b"nonsense")
    server.conversations.send("a", assignment)
    assert device.expect("a", 1.0).header.client == 0
    assert server.drain(1.0)


def test_a_peer_that_breaks_the_protocol_is_named(assignment):
    broker = MemoryBroker()
    device = device_on(broker)
    link = Link(1)
    header = msgspec.structs.replace(assignment, trial="t", device="a")
    for _ in range(2):
        link.send(encode(Message(header)))
    for frame in link.frames_to_send(0.0):
        broker.connect().publish(topics.down("t", "a"), frame)
    device.expect("a", 1.0)
    with pytest.raises(RemoteProtocolError, match=r"^a: the server broke the protocol"):
        device.expect("a", 1.0)


def test_a_broker_that_takes_small_packets_gets_small_chunks(assignment):
    broker = MemoryBroker(max_packet_bytes=5000)
    server, device = server_on(broker), device_on(broker)
    server.conversations.send("a", assignment)
    server.conversations.send("a", Begin(epoch=0, mode=Mode.EXCHANGE), bytes(100_000))
    helper = threading.Thread(target=server.drain, args=(5.0,))
    helper.start()
    device.expect("a", 5.0)
    assert len(device.expect("a", 5.0).payload) == 100_000
    helper.join()


def test_a_peer_that_was_cut_off_is_answered_as_soon_as_it_is_back(assignment):
    """Not when the pause between repetitions, which has grown meanwhile, is over."""
    lost = threading.Event()
    lost.set()
    broker = MemoryBroker(lambda packet: [] if lost.is_set() else [packet])
    server, device = server_on(broker), device_on(broker)
    server.conversations.send("a", assignment)
    server.conversations._open["a"].session._link._outgoing._timer.timeout_s = 60.0
    lost.clear()
    birth = Presence(trial="t", device="a", online=True, epoch=2, samples=3)
    broker.connect().publish_retained(topics.state("t", "a"), encode(Message(birth)))
    server.pump(0.5)
    assert device.expect("a", 1.0).header.client == 0


def test_a_device_that_was_given_up_is_told_when_it_speaks(assignment):
    broker = MemoryBroker()
    server, device = server_on(broker), device_on(broker)
    server.conversations.send("a", assignment)
    device.expect("a", 1.0)
    server.conversations.give_up("a", 2)
    server.pump(0.1)  # the acknowledgement
    with pytest.raises(PeerStartedAnew):
        device.expect("a", 1.0)


def test_a_device_cannot_give_up_a_server(assignment):
    broker = MemoryBroker()
    server, device = server_on(broker), device_on(broker)
    broker.connect().publish(topics.up("t", "a"), reset(1))
    server.conversations.send("a", assignment)
    assert device.expect("a", 1.0)
    assert server.drain(1.0)


def test_frames_for_an_earlier_process_of_a_device_are_not_taken_for_its_own(assignment):
    broker = MemoryBroker()
    server, stale = server_on(broker, devices=()), broker.connect()
    stale.subscribe(topics.down("t", "a"))
    server.conversations.open("a", 7)
    server.conversations.send("a", assignment)
    transport = broker.connect()
    transport.subscribe(topics.down("t", "a"))
    device = Endpoint(Role.DEVICE, "t", transport, 8, ignore)
    device.conversations.open("a", 1)
    broker.connect().publish(topics.down("t", "a"), stale.receive(1.0).payload)
    with pytest.raises(PeerLost):
        device.expect("a", 0.2)


def test_our_own_will_of_a_replaced_connection_is_corrected():
    broker = MemoryBroker()
    transport, topic = broker.connect(), topics.state("t", "a")
    birth = Presence(trial="t", device="a", online=True, epoch=2)
    device = Endpoint(Role.DEVICE, "t", transport, 2, ignore)
    device.claim(topic, birth)
    broker.connect().publish_retained(*will_of(topic, birth))
    device.pump(0.5)
    watcher = broker.connect()
    watcher.subscribe(topic)
    assert decode(watcher.receive(1.0).payload).header.online


def test_a_thousand_idle_conversations_cost_a_busy_one_nothing(assignment):
    """Each packet looks at its own conversation, not at all of them."""
    broker = MemoryBroker()
    server = server_on(broker, devices=[f"d{number}" for number in range(1000)])
    server.pump(0.0)
    looked = []
    for name, each in server.conversations._open.items():
        session = each.session
        looking = session.frames_to_send
        session.frames_to_send = lambda now, name=name, looking=looking: looked.append(name) or looking(now)
    broker.connect().publish(topics.up("t", "d7"), next(split(b"x" * 50, 9, 1)).pack())
    server.pump(0.5)
    assert looked == ["d7"]


def test_a_device_takes_no_other_device_for_its_server():
    broker, seen = MemoryBroker(), []
    transport = broker.connect()
    device = Endpoint(Role.DEVICE, "t", transport, 2, seen.append)
    device.claim(topics.state("t", "a"), Presence(trial="t", device="a", online=True, epoch=2))
    transport.subscribe(topics.every_state("t"))
    other = Presence(trial="t", device="b", online=True, epoch=5)
    broker.connect().publish_retained(topics.state("t", "b"), encode(Message(other)))
    device.pump(0.1)
    device.pump(0.1)
    assert seen == []
