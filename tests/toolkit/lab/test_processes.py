import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cutlayer.lab.processes import start, stop

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_stop_ends_who_obeys_and_kills_who_does_not(tmp_path):
    log = tmp_path / "log"
    meek = start([sys.executable, "-c", "import time; time.sleep(60)"], log)
    stubborn = start([sys.executable, "-c", STUBBORN], log)
    wait_for(lambda: "up" in log.read_text())
    stop([meek, stubborn], grace_s=0.5)
    assert meek.returncode == -signal.SIGTERM
    assert stubborn.returncode == -signal.SIGKILL


def test_ctrl_c_in_the_terminal_does_not_reach_a_child():
    child = start([sys.executable, "-c", "import time; time.sleep(60)"])
    assert os.getpgid(child.pid) != os.getpgid(0)
    stop([child])


def test_a_child_ends_when_its_parent_is_killed(tmp_path):
    code = (
        "import sys, time; from cutlayer.lab.processes import start;"
        "child = start([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    parent.stdout.close()

    def gone():
        try:
            return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    wait_for(gone)
