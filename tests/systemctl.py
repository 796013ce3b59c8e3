#!/usr/bin/env python3
"""Stands for systemctl where no systemd runs: one unit, started for real and waited for until it says that it is ready.

In the environment: UNIT_FOLDER, where the unit is; HOME_FOLDER, which is taken for /opt/cutlayer; RUN_FOLDER, for a pid, a socket, the state
and a log. What it is asked is written to RUN_FOLDER/asked.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

UNIT, HOME, RUN = (Path(os.environ[name]) for name in ("UNIT_FOLDER", "HOME_FOLDER", "RUN_FOLDER"))
PID = RUN / "pid"
READY_S = 60.0


def alive():
    try:
        pid = int(PID.read_text())
        os.kill(pid, 0)
        return "zombie" not in Path(f"/proc/{pid}/status").read_text() and pid
    except (OSError, ValueError):
        return False


def stop():
    pid = alive()
    if pid:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    PID.unlink(missing_ok=True)


def start(name):
    text = (UNIT / name).read_text()
    command = re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)[1]
    words = command.replace("/opt/cutlayer", str(HOME)).replace("/var/lib/cutlayer", str(RUN / "state")).split()
    address = RUN / "notify"
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard, (RUN / "log").open("ab") as log:
        heard.bind(str(address))
        heard.settimeout(0.2)
        environment = {**os.environ, "NOTIFY_SOCKET": str(address), "JOURNAL_STREAM": "1:1"}
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, start_new_session=True)
        PID.write_text(str(process.pid))
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            with suppress(TimeoutError):
                if b"READY=1" in heard.recv(4096):
                    return 0
            if process.poll() is not None:
                break
    PID.unlink(missing_ok=True)
    print(f"Job for {name} failed because the control process exited with error code.", file=sys.stderr)
    return 1


def main(words):
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / "asked").open("a") as asked:
        asked.write(" ".join(words) + "\n")
    match words:
        case ["restart", name]:
            stop()
            return start(name)
        case ["is-active", _]:
            return 0 if alive() else 3
        case ["disable", "--now", _]:
            stop()
    return 0


sys.exit(main(sys.argv[1:]))
