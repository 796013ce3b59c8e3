"""What plugs say, word for word as captured, and a plug at a real broker and a real HTTP server."""

import http.server
import socket
import threading
import time

import pytest

from cutlayer_core.wire.transports import MqttTransport
from cutlayer_profiles.meters import Root, Settings
from cutlayer_profiles.meters.plugs import parse_shelly, parse_tasmota, parse_zigbee2mqtt, probe
from cutlayer_profiles.meters.settings import Shelly, Tasmota, Zigbee2Mqtt

TASMOTA = (
    '{"Time":"2018-01-17T18:59:50","ENERGY":{"Total":1.956,"Yesterday":0.054,"Today":0.049,"Period":0,"Power":9,'
    '"Factor":0.43,"Voltage":231,"Current":0.089}}'
)
SHELLY2 = (
    '{"aenergy":{"by_minute":[34.786,45.552,45.552],"minute_ts":1707326925,"total":7258.589},"apower":2.7,"current":0.121,'
    '"id":0,"output":true,"source":"init","temperature":{"tC":32.1,"tF":89.7},"voltage":227.9}'
)
SHELLY1 = '{"meters":[{"power":3.91,"is_valid":true,"timestamp":1700000000,"counters":[3.9,3.8,3.9],"total":2632}]}'
ZIGBEE = '{"power":4.2,"voltage":230,"current":0.03,"energy":12.34,"state":"ON"}'


def test_each_plug_counts_in_its_own_unit():
    assert parse_tasmota(TASMOTA) == (9, pytest.approx(1.956 * 3.6e6))
    assert parse_shelly(SHELLY2, 2) == (2.7, pytest.approx(7258.589 * 3600))
    assert parse_shelly(SHELLY1, 1) == (3.91, pytest.approx(43.8667 * 3600, rel=1e-4)), "2632 watt-minutes are 43.9 Wh"
    assert parse_zigbee2mqtt(ZIGBEE) == (4.2, pytest.approx(12.34 * 3.6e6))
    assert parse_zigbee2mqtt('{"power":4.2}') == (4.2, None)


def test_several_sockets_are_added():
    assert parse_tasmota('{"ENERGY":{"Total":[1,2],"Power":[3,4]}}') == (7, pytest.approx(3 * 3.6e6))


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_tasmota, "{"),
        (parse_tasmota, "[]"),
        (parse_tasmota, '{"ENERGY":{"Total":1}}'),
        (parse_tasmota, '{"ENERGY":{"Total":1,"Power":"9"}}'),
        (parse_tasmota, '{"ENERGY":{"Total":1,"Power":9}}' + " " * 70000),
        (parse_tasmota, b"\xff\xfe"),
        (lambda text: parse_shelly(text, 2), SHELLY1),
        (lambda text: parse_shelly(text, 1), SHELLY2),
        (lambda text: parse_shelly(text, 1), '{"meters":[]}'),
        (lambda text: parse_shelly(text, 1), SHELLY1.replace("true", "false")),
        (parse_zigbee2mqtt, '{"state":"ON"}'),
    ],
)
def test_anything_else_is_refused(parse, text):
    with pytest.raises(ValueError, match=r"."):
        parse(text)


@pytest.mark.parametrize(
    ("plug", "topic", "text", "joules"),
    [
        (Tasmota(broker="", topic="desk"), "tele/desk/SENSOR", TASMOTA, 1.956 * 3.6e6),
        (Zigbee2Mqtt(broker="", name="desk"), "zigbee2mqtt/desk", ZIGBEE, 12.34 * 3.6e6),
    ],
)
def test_a_plug_at_a_broker(broker, plug, topic, text, joules):
    maker = MqttTransport(broker.host, broker.port, "plug")
    maker.publish_retained(topic, text.encode())
    address = f"{broker.host}:{broker.port}"
    named = type(plug)(broker=address, **{key: value for key, value in plug_fields(plug).items() if key != "broker"})
    (found,) = probe(Root(), Settings(plug=named))
    assert found.status == "found", found.detail
    assert (found.meter.kind, found.meter.scope, found.meter.counts) == ("measured", "wall_ac", True)
    assert "desk" not in found.meter.name, "its name may be its serial number, and goes into reports"
    assert "desk" in found.meter.place
    told = time.monotonic()
    time.sleep(0.2)
    assert found.meter.read() == pytest.approx(joules)
    assert found.meter.told_at_s < told, "a reading is as old as the message that brought it"
    if isinstance(plug, Zigbee2Mqtt):
        maker.publish_retained(topic, b'{"power":4.2}')
        with pytest.raises(ValueError, match="did not say what it has counted"):
            read_until_it_fails(found.meter)
    maker.close()


def answer_nonsense(server):
    connection, _ = server.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"what?\r\n")


def read_until_it_fails(meter):
    for _ in range(100):
        meter.read()
        time.sleep(0.02)


def plug_fields(plug):
    return {key: getattr(plug, key) for key in plug.__struct_fields__}


def test_a_plug_over_http_and_one_that_is_not_there():
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SHELLY2.encode() if self.path == "/rpc/Switch.GetStatus?id=0" else b"{}")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_address[1]}"
    (found,) = probe(Root(), Settings(plug=Shelly(host=host)))
    assert found.meter.read() == pytest.approx(7258.589 * 3600)
    assert "below 5 W plugs are blind" in found.detail
    (found,) = probe(Root(), Settings(plug=Shelly(host=host, generation=1)))
    assert found.status == "unfit"
    server.shutdown()
    server.server_close()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        threading.Thread(target=answer_nonsense, args=(mute,), daemon=True).start()
        (found,) = probe(Root(), Settings(plug=Shelly(host=f"127.0.0.1:{mute.getsockname()[1]}")))
        assert "does not speak HTTP" in found.detail
    (found,) = probe(Root(), Settings(plug=Shelly(host=host)))
    assert (found.status, found.meter) == ("unfit", None)
