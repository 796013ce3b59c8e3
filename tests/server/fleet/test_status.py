"""`cutlayer trial status` as its users meet it: in a terminal, in a pipe, and as JSON."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from importlib import resources

import pytest


@pytest.fixture
def command(broker, tmp_path):
    text = resources.files("cutlayer.demo").joinpath("trial.toml").read_text("utf-8")
    (tmp_path / "trial.toml").write_text(text.replace("port = 1883", f"port = {broker.port}"))
    return [sys.executable, "-m", "cutlayer", "trial", "status", str(tmp_path / "trial.toml")]


class Terminal:
    """A command in a terminal of its own, and what it has shown there."""

    def __init__(self, command):
        self._screen, inside = pty.openpty()
        self.process = subprocess.Popen(command, stdout=inside, stderr=inside, env={**os.environ, "TERM": "xterm"})
        os.close(inside)
        self.shown = ""

    def read_until(self, done):
        deadline = time.monotonic() + 30
        while not done(self.shown) and time.monotonic() < deadline:
            try:
                self.shown += os.read(self._screen, 4096).decode()
            except OSError:  # Linux says so once the other end is closed
                break

    def close(self):
        self.read_until(lambda _: False)
        os.close(self._screen)
        return self.process.wait(timeout=10)


def test_in_a_terminal_it_is_live_until_ctrl_c_which_is_no_error(command):
    terminal = Terminal(command)
    terminal.read_until(lambda shown: shown.count("board-2") >= 3)
    assert terminal.process.poll() is None
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.close() == 0
    assert "interrupted" not in terminal.shown
    assert "Traceback" not in terminal.shown


def test_in_a_terminal_for_so_long_it_is_live_and_ends_by_itself(command):
    terminal = Terminal([*command, "--for-s", "1.2"])
    assert terminal.close() == 0
    assert terminal.shown.count("board-2") >= 3


def test_in_a_pipe_it_listens_a_while_and_shows_the_trial_once(command):
    environment = {**os.environ, "FORCE_COLOR": "1"}  # colours are wanted; a terminal is not promised by that
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, env=environment)
    assert done.stdout.count("board-2") == 1
    assert "trial demo: no server" in done.stdout


def test_as_json_it_is_one_line_with_every_device(command):
    done = subprocess.run(
        [*command, "--for-s", "0.2", "--json"], capture_output=True, text=True, timeout=30, check=True
    )
    found = json.loads(done.stdout)
    assert (found["server"], [each["device"] for each in found["devices"]]) == (False, ["board-1", "board-2"])
