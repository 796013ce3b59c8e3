"""Memory and MQTT keep the same contract; MQTT is tried on a real mosquitto and on amqtt."""

import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from statistics import median

import pytest

from cutlayer.lab.broker import start_broker
from cutlayer.lab.processes import start, stop
from cutlayer_core.errors import TransportError
from cutlayer_core.wire import topics
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import End
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.transports import LastWill, MemoryBroker, MqttTransport
from cutlayer_core.wire.transports.base import publish_bytes
from needs import need


def connect_memory(_broker):
    shared = MemoryBroker()
    return lambda name, will=None: shared.connect(will)


def connect_mqtt(broker):
    return lambda name, will=None: MqttTransport(broker.host, broker.port, name, will)


@pytest.fixture(params=[connect_memory, connect_mqtt], ids=["memory", "mqtt"])
def connect(request, broker):
    opened = []

    def opener(name, will=None):
        opened.append(factory(name, will))
        return opened[-1]

    factory = request.param(broker)
    yield opener
    for transport in opened:
        transport.close()


def test_packets_arrive_on_matching_topics_with_their_size(connect):
    a, b = connect("a"), connect("b")
    b.subscribe("t/+/up")
    a.publish_retained("t/a/up", b"first")
    assert b.receive(5).payload == b"first"
    a.publish("t/a/down", b"not for b")
    size = a.publish("t/a/up", b"x" * 1000)
    packet = b.receive(5)
    assert (packet.topic, packet.payload, packet.wire_bytes) == ("t/a/up", b"x" * 1000, size)
    assert b.receive(0.05) is None


def test_what_is_retained_reaches_who_subscribes_later(connect):
    a, b = connect("a"), connect("b")
    a.publish_retained("t/state-later", b"birth")
    time.sleep(0.1)
    b.subscribe("t/state-later")
    assert b.receive(5).payload == b"birth"


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("length", [0, 1, 121, 122, 123, 16_377, 16_378, 16_379, 120_032, 2_097_145, 2_097_146])
def test_sizes_are_those_of_the_mqtt_packet(length, version):
    import paho.mqtt.client as paho

    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=version)
    sent = bytearray()

    class Sink:
        def send(self, data):
            sent.extend(data)
            return len(data)

        def close(self):
            pass

    client._sock = Sink()
    client.publish("t/a", bytes(length), qos=0)
    client.loop_write()
    assert publish_bytes("t/a", bytes(length), version=version) == len(sent)


def test_bytes_counted_are_bytes_that_crossed_the_socket(broker):
    """What mosquitto itself counted for a subscriber, against what we counted."""
    sender = MqttTransport(broker.host, broker.port, "count-a")
    receiver = MqttTransport(broker.host, broker.port, "count-b")
    receiver.subscribe("count/x")
    counted = [0]
    original = receiver._client._sock_recv

    def counting(size):
        data = original(size)
        counted[0] += len(data)
        return data

    time.sleep(0.3)
    receiver._client._sock_recv = counting
    total = 0
    for length in (10, 5_000, 120_000):
        total += sender.publish("count/x", bytes(length))
        assert receiver.receive(5).wire_bytes
    sender.close()
    receiver.close()
    assert counted[0] == total


def test_a_killed_process_leaves_its_will_and_a_polite_one_does_not(broker):
    watcher = MqttTransport(broker.host, broker.port, "watcher")
    watcher.subscribe("wills/+")
    polite = MqttTransport(broker.host, broker.port, "polite", LastWill("wills/polite", b"gone"))
    polite.close()
    code = (
        "import sys, time; from cutlayer_core.wire.transports import LastWill, MqttTransport;"
        f"t = MqttTransport('{broker.host}', {broker.port}, 'victim', LastWill('wills/victim', b'gone'));"
        "print('ready', flush=True); time.sleep(60)"
    )
    victim = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert victim.stdout.readline() == b"ready\n"
    victim.kill()
    victim.wait()
    victim.stdout.close()
    packet = watcher.receive(5)
    assert (packet.topic, packet.payload) == ("wills/victim", b"gone")
    assert watcher.receive(0.2) is None
    watcher.close()


def test_nagle_is_off_so_that_a_round_trip_does_not_wait_for_delayed_acknowledgements(broker):
    """Two packets in a row each way, the second small: with Nagle's algorithm this takes over 40 ms."""
    a, b = (MqttTransport(broker.host, broker.port, name) for name in ("nagle-a", "nagle-b"))
    a.subscribe("nagle/down")
    b.subscribe("nagle/up")
    time.sleep(0.5)  # what is published before the broker has a subscription goes nowhere
    for transport in (a, b):
        assert transport._client.socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert transport._client.socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
    took_s = []
    for _ in range(20):
        start = time.perf_counter()
        for there, back, topic in ((a, b, "nagle/up"), (b, a, "nagle/down")):
            there.publish(topic, bytes(20_000))
            there.publish(topic, bytes(32))
            assert back.receive(5)
            assert back.receive(5)
        took_s.append(time.perf_counter() - start)
    a.close()
    b.close()
    assert median(took_s) < 0.04


def test_without_a_broker_the_error_says_where_it_was_looked_for():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(TransportError, match=f"no MQTT broker answers at 127.0.0.1:{port}"):
        MqttTransport("127.0.0.1", port, "x", connect_timeout_s=0.3)


def test_a_server_that_is_no_broker_is_named_as_such():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        with pytest.raises(TransportError, match="does not speak MQTT"):
            MqttTransport("127.0.0.1", port, "x", connect_timeout_s=0.5)


def test_a_broker_that_is_silent_for_now_is_waited_for_and_the_waiting_is_told(tmp_path):
    process, port = configured(tmp_path)
    process.send_signal(signal.SIGSTOP)  # the system accepts connections for it
    waited = []

    def waiting():
        waited.append(time.monotonic())
        if waited[-1] - waited[0] > 4:  # by then MQTT 3.1.1 is being tried
            process.send_signal(signal.SIGCONT)

    MqttTransport("127.0.0.1", port, "patient", connect_timeout_s=float("inf"), waiting=waiting).close()
    assert max(after - before for before, after in pairwise(waited)) < 2
    stop([process])


def test_a_broker_that_restarts_is_found_again_and_subscriptions_survive(tmp_path):
    first, port = configured(tmp_path)
    command = first.args
    a, b = (MqttTransport("127.0.0.1", port, name) for name in "ab")
    b.subscribe("x/y")
    first.kill()
    first.wait()
    second = start(command, tmp_path / "log")
    deadline = time.monotonic() + 20
    while not (a.reconnections() and b.reconnections()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    packet = None
    while packet is None:
        assert time.monotonic() < deadline
        a.publish("x/y", b"again")
        packet = b.receive(0.5)
    assert packet.payload == b"again"
    a.close()
    b.close()
    stop([second])


@pytest.mark.slow
def test_amqtt_serves_where_mosquitto_is_not_installed(tmp_path):
    pytest.importorskip("amqtt", reason="the laptop's package, which a board does not have")
    with start_broker(tmp_path, "amqtt") as running:
        a, b = (MqttTransport(running.host, running.port, name) for name in "ab")
        b.subscribe("x/y")
        time.sleep(0.3)
        a.publish("x/y", bytes(120_000))
        assert b.receive(10).payload == bytes(120_000)
        a.close()
        b.close()


@pytest.mark.needs("mosquitto")
def test_a_broker_that_cannot_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("cutlayer.lab.broker.mosquitto_conf", lambda port: "no_such_option 1\n")
    with pytest.raises(TransportError, match="did not come up"), start_broker(tmp_path, "mosquitto"):
        pass


def configured(folder, **settings):
    """A mosquitto with more settings than the demo's."""
    need("mosquitto")
    port = free_port()
    conf = folder / f"{port}.conf"
    lines = "".join(f"{key} {value}\n" for key, value in settings.items())
    conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n{lines}")
    process = start(["mosquitto", "-c", str(conf)], folder / "log")
    deadline = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, port
        assert time.monotonic() < deadline
        time.sleep(0.02)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_no_packet_is_larger_than_the_broker_takes(tmp_path):
    """Too large a packet would be a poison: the broker hangs up, the client comes back and sends it again."""
    process, port = configured(tmp_path, max_packet_size=20_000)
    a, b = (MqttTransport("127.0.0.1", port, name) for name in "ab")
    assert a.max_packet_bytes == 20_000
    device, server = Endpoint(Role.DEVICE, "t", a, 1, print), Endpoint(Role.SERVER, "t", b, 2, print)
    for end, transport, topic in ((device, a, topics.down), (server, b, topics.up)):
        transport.subscribe(topic("t", "x"))
        end.conversations.open("x")
    server.conversations.send("x", End(reason="?" * 200_000))
    helper = threading.Thread(target=server.drain, args=(5.0,))
    helper.start()
    assert len(device.expect("x", 10.0).header.reason) == 200_000
    helper.join()
    assert (a.reconnections(), b.reconnections()) == (0, 0)
    for transport in (a, b):
        transport.close()
    stop([process])


def test_a_broker_that_takes_next_to_nothing_is_refused_by_name(tmp_path):
    process, port = configured(tmp_path, max_packet_size=500)
    with pytest.raises(TransportError, match="takes packets up to 500 bytes, needed are 2048: raise its limit"):
        MqttTransport("127.0.0.1", port, "x")
    stop([process])


def test_a_connection_that_is_replaced_at_once_was_never_gone(broker):
    watcher = MqttTransport(broker.host, broker.port, "replaced-watcher")
    watcher.subscribe("replaced/+")
    brief = MqttTransport(broker.host, broker.port, "replaced", LastWill("replaced/it", b"gone"))
    brief._client.socket().shutdown(socket.SHUT_RDWR)
    deadline = time.monotonic() + 10
    while not brief.reconnections():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert watcher.receive(3.0) is None
    brief.close()
    watcher.close()


def test_what_is_published_while_there_is_no_broker_is_lost_and_nothing_else_happens(tmp_path):
    """paho answers such a packet with an error (rc 4), and keeps one at QoS 1 for later, which must not be sent again."""
    process, port = configured(tmp_path)
    a, b = (MqttTransport("127.0.0.1", port, name) for name in "ab")
    b.subscribe("x/+")
    process.kill()
    process.wait()
    while a._client.is_connected():
        time.sleep(0.01)
    a.publish("x/data", b"lost")
    a.publish_retained("x/state", b"birth")
    conf = tmp_path / f"{port}.conf"
    process = start(["mosquitto", "-c", str(conf)], tmp_path / "log")
    arrived, deadline = [], time.monotonic() + 20
    while not (a.reconnections() and b.reconnections() and arrived) and time.monotonic() < deadline:
        if (packet := b.receive(0.1)) is not None:
            arrived.append(packet.payload)
    assert set(arrived) == {b"birth"}
    for transport in (a, b):
        transport.close()
    stop([process])


@pytest.mark.slow
def test_a_connection_that_is_half_open_is_noticed_and_replaced(tmp_path, monkeypatch):
    """A broker that is frozen: its machine still acknowledges what TCP carries, and nobody answers."""
    monkeypatch.setattr("cutlayer_core.wire.transports.mqtt._KEEP_ALIVE_S", 2)
    process, port = configured(tmp_path)
    transport = MqttTransport("127.0.0.1", port, "half-open")
    process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 15
    while transport._client.is_connected():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGCONT)
    while not transport.reconnections():
        assert time.monotonic() < deadline + 30
        time.sleep(0.05)
    transport.close()
    stop([process])
