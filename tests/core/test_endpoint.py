"""Two endpoints over a memory broker that loses and repeats packets."""

import random
import threading

import msgspec
import pytest

from cutlayer import topics
from cutlayer.endpoint import Endpoint, will_of
from cutlayer.errors import PeerLost, RemoteProtocolError
from cutlayer.messages import Begin, Message, Presence, Smashed, Tensor, encode
from cutlayer.schedules import Mode
from cutlayer.session import Link, Role
from cutlayer.transports import MemoryBroker

TENSOR = Tensor("raw", {}, (1,))


def ignore(_presence):
    pass


def server_on(broker, on_presence=ignore, devices=("a",)):
    transport = broker.connect()
    endpoint = Endpoint(Role.SERVER, "t", transport, 1, on_presence)
    transport.subscribe(topics.every_up("t"))
    transport.subscribe(topics.every_state("t"))
    for device in devices:
        endpoint.open(device)
    return endpoint


def device_on(broker, name="a", trial="t"):
    transport = broker.connect()
    endpoint = Endpoint(Role.DEVICE, trial, transport, 2, ignore)
    transport.subscribe(topics.down(trial, name))
    endpoint.open(name)
    return endpoint


def test_messages_pass_both_ways_and_their_bytes_are_counted_alike(assignment):
    broker = MemoryBroker()
    server, device = server_on(broker), device_on(broker)
    server.send("a", assignment)
    server.send("a", Begin(epoch=0, mode=Mode.EXCHANGE), b"weights" * 100_000)
    assert device.expect("a", 1.0).header.client == 0
    helper = threading.Thread(target=server.drain, args=(5.0,))
    helper.start()
    assert len(device.expect("a", 5.0).payload) == 700_000
    helper.join()
    device.send("a", Smashed(epoch=0, step=0, tensor=TENSOR, labels=b"\0\0"), b"1234")
    assert server.expect("a", 1.0).payload == b"1234"
    device.drain(1.0)
    assert server.sent_bytes == device.received_bytes
    assert device.sent_bytes == server.received_bytes
    assert server.sent_bytes["a"] > 700_000


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
    server.send("a", assignment)
    server.send("a", Begin(epoch=0, mode=Mode.EXCHANGE), bytes(300_000))
    assert server.drain(60.0)
    settled.set()
    helper.join()
    assert [len(message.payload) for message in heard] == [0, 300_000]


def test_messages_of_other_devices_wait_for_their_turn(assignment):
    broker = MemoryBroker()
    server = server_on(broker, devices=("a", "b"))
    for name in "ab":
        device = device_on(broker, name)
        server.send(name, assignment)
        server.send(name, Begin(epoch=0, mode=Mode.EXCHANGE))
        device.expect(name, 1.0)
        device.expect(name, 1.0)
        device.send(name, Smashed(epoch=0, step=0, tensor=TENSOR, labels=b"\0\0"), name.encode())
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
    server.send("a", assignment)
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
