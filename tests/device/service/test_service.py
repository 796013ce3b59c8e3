"""A device as a service: what it tells systemd, how it waits, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from cutlayer_core.wire.transports import MemoryBroker
from cutlayer_device.service.notify import Notifier
from cutlayer_device.service.service import check_release
from cutlayer_device.training.watched_transport import WatchedTransport


class Systemd:
    """Its end of the socket."""

    def __init__(self, path):
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)

    def heard(self, wait_s=0.0):
        """What came until nothing came for so long."""
        found = []
        self._socket.settimeout(wait_s or 0.01)
        try:
            while True:
                found.append(self._socket.recv(4096).decode())
        except TimeoutError:
            return found

    def await_(self, text, limit_s=30.0):
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if any(text in each for each in self.heard(0.2)):
                return
        raise AssertionError(f"systemd never heard {text}")

    def close(self):
        self._socket.close()


@pytest.fixture
def systemd(tmp_path):
    listening = Systemd(tmp_path / "notify")
    yield listening
    listening.close()


def test_systemd_hears_what_it_is_told_and_nobody_else_minds(systemd):
    notifier = Notifier({"NOTIFY_SOCKET": systemd.address})
    notifier.ready()
    notifier.status("waiting")
    for _ in range(5):
        notifier.alive()
    assert systemd.heard() == ["READY=1", "STATUS=waiting", "WATCHDOG=1"], "not at every step"
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": "/nobody/listens"}).ready()


def test_a_device_that_waits_or_sends_is_alive(systemd):
    transport = WatchedTransport(MemoryBroker().connect(None), Notifier({"NOTIFY_SOCKET": systemd.address}).alive)
    assert transport.receive(0.0) is None
    assert systemd.heard() == ["WATCHDOG=1"]


@pytest.fixture
def config(digits, tmp_path):
    """A configuration whose broker is not there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = tmp_path / "config.toml"
    lines = {
        "name": "board-1",
        "broker": f"127.0.0.1:{port}",
        "data": str(digits / "board-1.npz"),
        "bundle": str(digits / "client.bundle"),
    }
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))
    return path


def start(config, systemd, state):
    command = [sys.executable, "-m", "cutlayer", "device", "service", str(config), "--state", str(state)]
    environment = {**os.environ, "NOTIFY_SOCKET": systemd.address}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_without_a_broker_it_is_ready_stays_alive_and_ends_when_asked(config, systemd, tmp_path):
    with start(config, systemd, tmp_path / "state") as process:
        systemd.await_("READY=1")
        systemd.await_("WATCHDOG=1", 15.0)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 130
        assert time.monotonic() - began < 2.0
        assert "Traceback" not in process.stderr.read()


def test_updates_of_a_release_that_is_gone_from_the_board_are_removed(config, systemd, tmp_path):
    updates = tmp_path / "state" / "updates"
    for name in ("0123456789ab", "by-hand"):
        (updates / name).mkdir(parents=True)
    (updates / "highest").write_text("7")
    with start(config, systemd, tmp_path / "state") as process:
        systemd.await_("READY=1")
        process.terminate()
    assert sorted(path.name for path in updates.iterdir()) == ["by-hand", "highest"]


def test_it_ends_within_two_seconds_whatever_it_is_doing(tmp_path):
    """As an engine in the middle of a long step, that does not let Python obey signals."""
    program = (
        "import hashlib\nfrom cutlayer_device.service.ending import end_within\nfrom cutlayer_core.console import stop_on_sigterm\n"
        "with stop_on_sigterm(), end_within(1.5):\n    print('deaf', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "deaf\n"
        time.sleep(0.5)  # until it is
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 130
        assert time.monotonic() - began < 2.0


def test_a_mistake_in_what_it_was_given_ends_it_at_once(config, systemd, tmp_path):
    config.write_text(config.read_text().replace("name =", "nome ="))
    with start(config, systemd, tmp_path / "state") as process:
        assert "found the unknown key 'nome'" in process.stderr.read()
        assert process.wait(timeout=20) == 2
    assert systemd.heard() == []


def test_a_release_is_checked_by_training_a_little(config):
    assert "cut at 'stem'" in check_release(config)
