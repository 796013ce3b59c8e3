"""Who may do what at a real mosquitto that asks for certificates."""

import datetime as dt
import logging
import os
import shutil
import stat
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from cutlayer_core.errors import TransportError, UserError
from cutlayer_core.record.record import Record
from cutlayer_core.wire import topics
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import Presence
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.transports import MqttTransport, load_tls
from cutlayer_server import certs
from cutlayer_server.certs import make_certificates
from needs import need

DEVICES = ("board-1", "board-2")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Certificates, and a mosquitto that runs with the configuration made with them."""
    need("mosquitto")
    folder = tmp_path_factory.mktemp("certs")
    port = 18_883 + os.getpid() % 20_000
    make_certificates(folder, ["localhost", "127.0.0.1"], DEVICES, port, days=30)
    conf = folder / "test.conf"
    conf.write_text((folder / "mosquitto.conf").read_text() + "user root\n")
    with (folder / "log").open("wb") as log:
        broker = subprocess.Popen(["mosquitto", "-c", conf], stdout=log, stderr=log)
    yield folder, port
    broker.terminate()
    broker.wait()


def connect(lab, who, folder=None, wait_s=5.0):
    tls = load_tls((folder or lab[0]) / who)
    return MqttTransport("localhost", lab[1], f"{who}-{time.monotonic_ns()}", connect_timeout_s=wait_s, tls=tls)


def heard(transport, wait_s=0.5):
    packets = []
    while packet := transport.receive(wait_s):
        packets.append((packet.topic, packet.payload))
    return packets


def test_server_and_device_reach_each_other(lab):
    server, board = connect(lab, "server"), connect(lab, "board-1")
    server.subscribe(topics.every_up("t"))
    server.subscribe(topics.every_state("t"))
    board.subscribe(topics.down("t", "board-1"))
    board.subscribe(topics.control("t"))
    time.sleep(0.3)
    board.publish(topics.up("t", "board-1"), b"up")
    board.publish_retained(topics.state("t", "board-1"), b"birth")
    server.publish(topics.down("t", "board-1"), b"down")
    server.publish_retained(topics.control("t"), b"server")
    assert set(heard(server)) == {(topics.up("t", "board-1"), b"up"), (topics.state("t", "board-1"), b"birth")}
    assert set(heard(board)) == {(topics.down("t", "board-1"), b"down"), (topics.control("t"), b"server")}
    for transport in (server, board):
        transport.close()


def test_a_device_can_neither_write_nor_read_what_is_anothers(lab):
    server, board, thief, listeners = connect(lab, "server"), connect(lab, "board-1"), connect(lab, "board-2"), []
    server.subscribe("cutlayer/1/x/#")
    board.subscribe(topics.down("x", "board-1"))
    for topic in (topics.down("x", "board-1"), topics.up("x", "board-1"), topics.state("x", "board-1"), "cutlayer/1/#"):
        listener = connect(lab, "board-2")
        listener.subscribe(topic)
        listeners.append(listener)
    time.sleep(0.3)
    for topic in (topics.up("x", "board-1"), topics.down("x", "board-1"), topics.control("x"), "elsewhere"):
        thief.publish(topic, b"forged")
        thief.publish_retained(topic, b"forged")
    thief.publish_retained(topics.state("x", "board-1"), b"forged")
    board.publish_retained(topics.state("x", "board-1"), b"birth")
    server.publish(topics.down("x", "board-1"), b"gradient")
    board.publish(topics.up("x", "board-1"), b"smashed")
    assert set(heard(server)) == {
        (topics.down("x", "board-1"), b"gradient"),
        (topics.up("x", "board-1"), b"smashed"),
        (topics.state("x", "board-1"), b"birth"),
    }
    assert heard(board) == [(topics.down("x", "board-1"), b"gradient")]
    for listener in listeners:
        with suppress(TransportError):  # the broker may say so, or deliver nothing
            assert not [packet for packet in heard(listener) if packet[0] != topics.control("t")]
    for transport in (server, board, thief, *listeners):
        transport.close()


def test_without_a_certificate_the_broker_says_what_it_wants(lab):
    with pytest.raises(TransportError, match="it wants a certificate: give a folder"):
        MqttTransport("localhost", lab[1], "nobody", connect_timeout_s=3.0)


def test_a_certificate_of_another_authority_is_refused_by_either_side(lab, tmp_path):
    make_certificates(tmp_path, ["localhost"], ["board-1"], 1, days=30)
    with pytest.raises(TransportError, match="broker's certificate is not to be trusted"):
        connect(lab, "board-1", tmp_path)
    shutil.copy(lab[0] / "board-1" / "ca.crt", tmp_path / "board-1" / "ca.crt")
    with pytest.raises(TransportError, match="our certificate is of another authority"):
        connect(lab, "board-1", tmp_path)


def test_an_expired_certificate_is_said_to_be_expired(lab, tmp_path, monkeypatch):
    shutil.copytree(lab[0], tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "board-1")
    monkeypatch.setattr(certs, "_BACKDATED", dt.timedelta(days=60))
    make_certificates(tmp_path / "old", ["localhost"], ["board-1"], 1, days=-1)
    with pytest.raises(TransportError, match="our certificate has expired"):
        connect(lab, "board-1", tmp_path / "old")


def test_a_broker_under_another_name_than_its_certificates_is_not_trusted(lab):
    with pytest.raises(TransportError, match=r"not to be trusted: .*mismatch"):
        MqttTransport("127.0.0.2", lab[1], "x", connect_timeout_s=3.0, tls=load_tls(lab[0] / "board-1"))


def test_devices_can_be_added_and_what_is_there_is_kept(tmp_path):
    make_certificates(tmp_path, ["localhost"], ["board-1"], 1, days=30)
    before = (tmp_path / "board-1" / "own.crt").read_bytes()
    made = make_certificates(tmp_path, ["localhost"], DEVICES, 1, days=30)
    assert (tmp_path / "board-1" / "own.crt").read_bytes() == before
    assert {path.name for path in made.kept} == {"authority", "broker", "server", "board-1"}
    assert {path.name for path in made.written} == {"board-2", "mosquitto.conf", "acl"}


@pytest.mark.parametrize(
    ("hosts", "devices", "message"),
    [
        (["localhost"], ["server"], "the folder of that name holds something else"),
        (["localhost"], ["authority"], "the folder of that name holds something else"),
        (["localhost:8883"], ["board-1"], "without a port"),
        (["other"], ["board-1"], "is for other names of the broker"),
    ],
)
def test_what_would_not_work_or_give_too_much_is_refused(tmp_path, hosts, devices, message):
    make_certificates(tmp_path, ["localhost"], ["board-1"], 1, days=30)
    with pytest.raises(UserError, match=message):
        make_certificates(tmp_path, hosts, devices, 1, days=30)


def test_half_of_an_identity_is_made_whole_and_a_foreign_one_refused(tmp_path):
    make_certificates(tmp_path, ["localhost"], DEVICES, 1, days=30)
    (tmp_path / "board-1" / "own.crt").unlink()
    make_certificates(tmp_path, ["localhost"], DEVICES, 1, days=30)
    load_tls(tmp_path / "board-1")
    for name in ("own.crt", "own.key"):
        shutil.copy(tmp_path / "board-2" / name, tmp_path / "board-1" / name)
    with pytest.raises(UserError, match="is not the certificate of board-1"):
        make_certificates(tmp_path, ["localhost"], DEVICES, 1, days=30)


def test_a_device_whose_name_does_not_fit_its_certificate_is_told(lab, caplog):
    board = connect(lab, "board-1")
    for name, warnings in (("board-1", 0), ("board-2", 1)):
        birth = Presence(trial="u", device=name, online=True, epoch=5)
        endpoint = Endpoint(Role.DEVICE, "u", board, 5, lambda presence: None)
        endpoint.claim(topics.state("u", name), birth)
        assert caplog.text.count("does the name fit the certificate?") == warnings
    board.close()


def test_a_subscription_that_the_broker_refuses_is_an_error(lab):
    board = connect(lab, "board-1")
    board._on_subscribe(board._client, None, 1, [ReasonCode(PacketTypes.SUBACK, identifier=0x80)], None)
    with pytest.raises(TransportError, match="does the name of the device fit its certificate"):
        board.receive(0.1)
    board.close()


def test_keys_are_nobody_elses_to_read(tmp_path):
    os.umask(0)
    make_certificates(tmp_path, ["localhost"], ["board-1"], 1, days=30)
    keys = list(tmp_path.glob("*/own.key"))
    assert len(keys) == 4
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    os.umask(0o022)
    keys[0].chmod(0o640)
    with pytest.raises(UserError, match=r"others can read own\.key: chmod 600"):
        load_tls(keys[0].parent)


def test_a_folder_that_lacks_a_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"has no ca.crt: copy the whole folder"):
        load_tls(tmp_path)


def test_the_command_prints_no_secret(tmp_path):
    command = [
        sys.executable,
        "-m",
        "cutlayer",
        "certs",
        tmp_path / "c",
        "--broker",
        "localhost",
        "--device",
        "board-1",
    ]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pattern write cutlayer/1/+/%u/up" in finished.stdout
    assert "require_certificate true" in finished.stdout
    key = (tmp_path / "c" / "board-1" / "own.key").read_text().splitlines()[1]
    assert key not in finished.stdout + finished.stderr
    again = subprocess.run([*command[:-1], "all"], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "--device 'all'" in again.stderr


def test_no_key_stands_in_logs_or_in_a_run_record(lab, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    connect(lab, "server").close()
    folder = lab[0] / "server"
    Record(tmp_path / "run", f'[broker]\ntls = "{folder}"\n').close("x")
    secret = (folder / "own.key").read_text().splitlines()[1]
    assert len(secret) > 40
    assert secret not in caplog.text
    assert not [path for path in (tmp_path / "run").iterdir() if secret.encode() in path.read_bytes()]
