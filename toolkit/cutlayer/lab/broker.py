"""Our own MQTT broker for the demo and the tests: mosquitto if it is installed, else amqtt.

Either runs as a separate process on a free port of the loopback interface, without passwords, and keeps nothing on
disk. A trial in the field uses a broker that its owner runs.
"""

import getpass
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cutlayer.lab.processes import start, stop
from cutlayer_core.errors import TransportError

__all__ = ["Broker", "mosquitto_conf", "start_broker"]

_START_S = 15.0

_MOSQUITTO = """\
# Only this machine can connect. For boards on your network write "listener {port}"; then whoever reaches
# the port can take part, so do it only where you trust everyone.
listener {port} 127.0.0.1
allow_anonymous true
persistence false
# Without this, every second small packet waits 40 ms for the acknowledgement of the first.
set_tcp_nodelay true
# With many boards more than the 1000 packets of the default wait for the server at times; what is dropped is sent again.
max_queued_messages 10000
"""

_AMQTT = """\
listeners:
  default:
    type: tcp
    bind: 127.0.0.1:{port}
plugins:
  amqtt.plugins.authentication.AnonymousAuthPlugin:
    allow_anonymous: true
"""


def mosquitto_conf(port: int) -> str:
    """A configuration for `mosquitto -c` that serves a trial on this machine."""
    return _MOSQUITTO.format(port=port)


class Broker(NamedTuple):
    """A running broker."""

    kind: str
    host: str
    port: int


@contextmanager
def start_broker(folder: Path, kind: str = "") -> Iterator[Broker]:
    """Run a broker for as long as the context lasts.

    Args:
        folder: where its configuration and log go.
        kind: "mosquitto" or "amqtt"; by default the first that is installed.

    Raises:
        TransportError: neither is installed, or it does not come up; the text holds the end of its log.
    """
    kind = kind or ("mosquitto" if shutil.which("mosquitto") else "amqtt")
    port = _free_port()
    config, log = folder / f"{kind}.conf", folder / f"{kind}.log"
    # Started by root, mosquitto would switch to another user, and so lose the signal that our death sends it.
    mosquitto = f"{mosquitto_conf(port)}user {getpass.getuser()}\n"
    config.write_text(mosquitto if kind == "mosquitto" else _AMQTT.format(port=port))
    command = ["mosquitto", "-c", str(config)]
    if kind == "amqtt":
        command = [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(config)]
    process = start(command, log)
    try:
        _await_listener(process, port, log)
        yield Broker(kind, "127.0.0.1", port)
    finally:
        stop([process])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_listener(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TransportError(f"the broker {process.args!r} did not come up:\n{log.read_text()[-2000:]}")
