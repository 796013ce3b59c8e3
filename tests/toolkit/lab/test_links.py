"""Links in the lab: the arithmetic on a clock that the test moves, and real sockets through a shaper."""

import socket
import threading
import time
from contextlib import closing

import msgspec
import pytest

from cutlayer.lab.air import Air
from cutlayer.lab.links import LINKS, read_links
from cutlayer.lab.shaper import Shaper
from cutlayer_core.errors import UserError
from cutlayer_core.record.link import Link
from cutlayer_core.schedules import Mode
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import Begin
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.topics import down
from cutlayer_core.wire.transports import MqttTransport

FAST = Link(up_mbit_s=8, down_mbit_s=8)
SLICE = 10_000  # bytes


def carried(air, way, seconds, start=0.0):
    """How many bytes leave within so many seconds, sent as fast as they do."""
    sent, at = 0, start
    while at < start + seconds:
        at, _ = air.send(way, SLICE, at)
        sent += SLICE
    return sent


def test_the_rate_is_that_of_the_profile_with_its_framing():
    assert carried(Air(FAST, 1), "up", 10.0) == pytest.approx(10e6 / 1.04, rel=0.01)


@pytest.mark.parametrize(("half_duplex", "left"), [(True, 2.08), (False, 1.04)])
def test_two_directions_share_the_air_or_not(half_duplex, left):
    air = Air(msgspec.structs.replace(FAST, half_duplex=half_duplex), 1)
    air.send("up", 1_000_000, 0.0)
    assert air.send("down", 1_000_000, 0.0)[0] == pytest.approx(left)


def test_jitter_delays_and_never_reorders():
    air = Air(msgspec.structs.replace(FAST, delay_ms=10, jitter_ms=50), 1)
    times = [air.send("up", 100, now / 1000) for now in range(1000)]
    arrivals = [arrives for _, arrives in times]
    assert arrivals == sorted(arrivals)
    assert all(arrives - left >= 0.01 - 1e-9 for left, arrives in times)
    assert max(arrives - left for left, arrives in times) > 0.05


def test_stalls_take_their_share_and_depend_on_the_seed_alone():
    link = msgspec.structs.replace(FAST, stall_share=0.2, stall_ms=100)
    full = carried(Air(FAST, 1), "up", 300.0)
    assert carried(Air(link, 1), "up", 300.0) == pytest.approx(0.8 * full, rel=0.05)

    def free_at(seed, warm_up):
        air = Air(link, seed)
        for now in warm_up:
            air.send("up", 1, now)
        return [air.send("up", 1, now / 10)[0] for now in range(1000, 1100)]

    assert free_at(1, []) == free_at(1, [3.0, 4.0])
    assert free_at(1, []) != free_at(2, [])


def test_a_dozing_radio_hears_at_the_next_beacon_and_an_awake_one_at_once():
    air = Air(msgspec.structs.replace(FAST, beacon_ms=100, awake_ms=50), 1)
    assert air.send("down", 1, 0.42)[0] == pytest.approx(0.5, abs=1e-4)
    assert air.send("down", 1, 0.53)[0] == pytest.approx(0.53, abs=1e-4)
    assert air.send("down", 1, 0.61)[0] == pytest.approx(0.7, abs=1e-4)
    assert air.send("up", 1, 0.91)[0] == pytest.approx(0.91, abs=1e-4)
    assert air.send("down", 1, 0.92)[0] == pytest.approx(0.92, abs=1e-4)


def test_nothing_passes_in_an_outage():
    air = Air(msgspec.structs.replace(FAST, outages_s=((1.0, 5.0),)), 1)
    assert air.send("up", 1, 0.9)[0] < 1.0
    assert air.send("up", 1, 1.5)[0] == pytest.approx(6.0, abs=1e-4)
    assert (air.outage_end(0.9), air.outage_end(1.5), air.outage_end(6.0)) == (0.9, 6.0, 6.0)


def test_choices_are_for_all_devices_or_for_one(tmp_path):
    own = tmp_path / "field.toml"
    own.write_text("up_mbit_s = 1\ndown_mbit_s = 2\noutages_s = [[10, 5]]\n")
    found = read_links(["lte", f"b={own}"], ["a", "b"])
    assert found == {"a": LINKS["lte"], "b": Link(up_mbit_s=1, down_mbit_s=2, outages_s=((10, 5),))}
    assert read_links([], ["a"]) == {}
    assert read_links(["a=wifi-bad"], ["a", "b"]) == {"a": LINKS["wifi-bad"]}
    assert read_links(["lte", "server=wifi-good"], ["a"]) == {"a": LINKS["lte"], "server": LINKS["wifi-good"]}


@pytest.mark.parametrize(
    ("choice", "text", "message"),
    [
        ("wifi", "", "--link: found 'wifi', allowed: wifi-good, wifi-bad, wifi-power-save, lte, or a TOML file"),
        ("c=lte", "", "--link c=lte: found the device 'c', allowed: a, b, server"),
        ("FILE", "up_mbit_s = 0\ndown_mbit_s = 1", "up_mbit_s"),
        ("FILE", "up_mbit_s = 1\ndown_mbit_s = 1\nstall_share = 1.0", "stall_share"),
        ("FILE", "up_mbit_s = inf\ndown_mbit_s = 1", "infinite or below 0"),
        ("FILE", "up_mbit_s = 1\ndown_mbit_s = 1\noutages_s = [[-1, 2]]", "infinite or below 0"),
        ("FILE", "up_mbit_s = 1\ndown_mbit_s = 1\nspeed = 2", "speed"),
    ],
)
def test_a_link_with_a_mistake_is_refused_by_name(tmp_path, choice, text, message):
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(UserError) as refused:
        read_links([choice.replace("FILE", str(tmp_path / "own.toml"))], ["a", "b"])
    assert message in str(refused.value)


def started(shaper):
    shaper.start()
    return shaper


class Echo:
    """A TCP server that sends back what it gets."""

    def __init__(self):
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

    def close(self):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.fixture
def echo():
    server = Echo()
    yield server
    server.close()


def round_trip_s(connection, size):
    began = time.monotonic()
    sender = threading.Thread(target=connection.sendall, args=(bytes(size),))
    sender.start()
    left = size
    while left:
        left -= len(connection.recv(left))
    sender.join()
    return time.monotonic() - began


def test_real_bytes_take_the_time_of_the_link_and_arrive_whole(echo):
    link = Link(up_mbit_s=20, down_mbit_s=20, half_duplex=False, delay_ms=30)
    with (
        closing(started(Shaper(link, "127.0.0.1", echo.port, seed=1))) as shaper,
        socket.create_connection(("127.0.0.1", shaper.port)) as connection,
    ):
        assert 0.06 <= round_trip_s(connection, 1) < 0.3
        assert 0.45 <= round_trip_s(connection, 1_000_000) < 1.5  # 0.42 s at 20 Mbit/s, and the delays


def is_closed(connection):
    connection.settimeout(5)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_connection_to_nobody_is_closed(echo):
    with closing(started(Shaper(FAST, "127.0.0.1", echo.port, seed=1))) as shaper:
        echo.close()
        with socket.create_connection(("127.0.0.1", shaper.port)) as connection:
            assert is_closed(connection)
        echo.__init__()


def test_a_long_outage_breaks_connections_and_refuses_new_ones(echo, monkeypatch):
    monkeypatch.setattr("cutlayer.lab.shaper._GIVE_UP_S", 0.2)
    link = msgspec.structs.replace(FAST, outages_s=((0.2, 0.8),))
    with closing(started(Shaper(link, "127.0.0.1", echo.port, seed=1))) as shaper:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", shaper.port)) as connection:
                assert is_closed(connection)
        time.sleep(0.8)
        with socket.create_connection(("127.0.0.1", shaper.port)) as connection:
            assert round_trip_s(connection, 1000) < 1.0


@pytest.mark.slow
def test_a_message_that_takes_longer_than_the_keep_alive_gets_through(broker, assignment, monkeypatch):
    """As one packet it would never: the ping waits behind it, the client gives up, comes back and begins anew."""
    monkeypatch.setattr("cutlayer_core.wire.transports.mqtt._KEEP_ALIVE_S", 2)
    slow = Link(up_mbit_s=4, down_mbit_s=4)
    with closing(started(Shaper(slow, broker.host, broker.port, seed=1))) as shaper:
        server = MqttTransport(broker.host, broker.port, "slow-server")
        device = MqttTransport(broker.host, shaper.port, "slow-device")
        device.subscribe(down("slow", "x"))
        server.subscribe("cutlayer/1/slow/x/up")
        here, there = Endpoint(Role.SERVER, "slow", server, 1, print), Endpoint(Role.DEVICE, "slow", device, 2, print)
        here.conversations.open("x")
        there.conversations.open("x")
        here.conversations.send("x", assignment)
        here.conversations.send("x", Begin(epoch=0, mode=Mode.EXCHANGE), bytes(3_000_000))
        helper = threading.Thread(target=here.drain, args=(10.0,))
        helper.start()
        began = time.monotonic()
        there.expect("x", 20.0)
        assert len(there.expect("x", 20.0).payload) == 3_000_000
        assert time.monotonic() - began > 3 * 2
        helper.join()
        assert device.reconnections() == 0
        server.close()
        device.close()
