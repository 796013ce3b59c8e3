"""Onto a "board" behind a real sshd, with an /opt of its own that fills up, and a line that is cut."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cutlayer_flash.archive import read_archive
from needs import need

pytestmark = pytest.mark.slow
STAND_IN = Path(__file__).parents[1] / "systemctl.py"
SSHD_PROGRAM = "/usr/sbin/sshd"

# Everything that an installation writes is on file systems of this process and its children alone.
BOARD = """\
mount --make-rprivate /
mkdir -p /opt /etc/systemd/system
mount -t tmpfs -o size=900m,nr_inodes={inodes} tmpfs /opt
mount --bind {folder}/units /etc/systemd/system
exec {sshd} -D -f {folder}/sshd_config -E {folder}/log
"""
SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/login.pub
UsePAM no
StrictModes no
PidFile none
SetEnv PATH={folder}/bin:/usr/bin:/bin UNIT_FOLDER=/etc/systemd/system HOME_FOLDER=/opt/cutlayer RUN_FOLDER={folder}/run HOME={folder}/home
"""
# ssh's way to the board, which ends after so many bytes.
CUT = """\
import os, socket, sys, threading
line, left = socket.create_connection(("127.0.0.1", int(sys.argv[1]))), int(sys.argv[2])
def back():
    while part := line.recv(65536):
        os.write(1, part)
threading.Thread(target=back, daemon=True).start()
while left > 0 and (part := os.read(0, 65536)):
    line.sendall(part)
    left -= len(part)
"""


class Board:
    """A login, and what is behind it."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port

    def flash(self, release, *words):
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", *words]
        command = [
            sys.executable,
            "-m",
            "cutlayer",
            "flash",
            "ssh",
            str(release),
            "root@127.0.0.1",
            "--port",
            str(self.port),
        ]
        command += ["--identity", str(self.folder / "login")]
        for option in options:
            command += ["--ssh-option", option] if "=" in option else [option]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    def ask(self, script):
        words = [
            "ssh",
            "-p",
            str(self.port),
            "-i",
            str(self.folder / "login"),
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]
        return subprocess.run(
            [*words, "root@127.0.0.1", script], capture_output=True, text=True, check=False
        ).stdout.strip()

    @property
    def current(self):
        return self.ask("basename $(readlink /opt/cutlayer/current)")

    @property
    def running(self):
        """The release that the living process was started from."""
        return self.ask(
            f"readlink /proc/$(cat {self.folder}/run/pid)/cwd >/dev/null && tr '\\0' '\\n' < /proc/$(cat {self.folder}/run/pid)/environ | grep ^PYTHONPATH"
        )


def start_board(folder, inodes):
    need(SSHD_PROGRAM)
    if os.geteuid() != 0:
        pytest.skip("a board with an /opt of its own is made by root only")
    for name in ("units", "bin", "home", "run"):
        (folder / name).mkdir()
    (folder / "bin" / "systemctl").symlink_to(STAND_IN)
    for name in ("host", "login"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with __import__("socket").socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    Path("/run/sshd").mkdir(exist_ok=True)
    (folder / "sshd_config").write_text(SSHD.format(folder=folder, port=port))
    script = BOARD.format(folder=folder, inodes=inodes, sshd=SSHD_PROGRAM)
    return subprocess.Popen(["unshare", "--mount", "sh", "-ec", script]), Board(folder, port)


@pytest.fixture
def make_board(tmp_path):
    started = []

    def make(inodes=1_000_000):
        process, board = start_board(tmp_path, inodes)
        started.append((process, board))
        deadline = time.monotonic() + 10
        while not board.ask("echo here") and time.monotonic() < deadline:
            time.sleep(0.1)
        return board

    yield make
    for process, board in started:
        board.ask("PATH=$PATH systemctl disable --now cutlayer.service")
        process.terminate()
        process.wait(timeout=10)


def release_of(path):
    return read_archive(path).release.release


def test_a_release_gets_there_and_runs_and_a_worse_one_is_taken_back(make_board, releases):
    board, good, better = make_board(), release_of(releases.good), release_of(releases.better)
    shown = board.flash(releases.good, "--dry-run")
    assert (shown.returncode, board.current) == (0, ""), shown.stderr
    assert "sha256sum -c" in shown.stdout
    assert "install.py" in shown.stdout
    assert "nothing was changed" in shown.stdout
    done = board.flash(releases.good)
    assert done.returncode == 0, done.stderr + done.stdout
    assert board.current == good
    assert good in board.running
    done = board.flash(releases.better)
    assert done.returncode == 0, done.stderr
    assert f"it runs release {good}" in done.stdout
    assert better in board.running
    done = board.flash(releases.bad)
    assert done.returncode == 1
    assert "the release does not work here" in done.stdout + done.stderr
    assert (board.current, better in board.running) == (better, True)
    assert board.ask(f"ls {board.folder}/home; ls ~") == "", "nothing is left where it logs in"


def test_a_line_that_is_cut_halfway_changes_nothing_and_the_next_try_goes_through(make_board, releases):
    board, good = make_board(), release_of(releases.good)
    assert board.flash(releases.good).returncode == 0
    (board.folder / "cut.py").write_text(CUT)
    command = f"ProxyCommand={sys.executable} {board.folder}/cut.py {board.port} 20000000"
    done = board.flash(releases.better, command)
    assert done.returncode == 1
    assert "ended with status 255" in done.stderr
    assert (board.current, good in board.running) == (good, True)
    assert board.flash(releases.better).returncode == 0
    assert board.current == release_of(releases.better)


def test_a_disk_that_fills_up_changes_nothing(make_board, releases):
    board, good = make_board(inodes=2600), release_of(releases.good)
    assert board.flash(releases.good).returncode == 0
    done = board.flash(releases.better)
    assert done.returncode == 1
    assert "No space left on device" in done.stdout + done.stderr
    assert (board.current, good in board.running) == (good, True)
    assert board.ask("ls /opt/cutlayer/releases") == good


def test_what_does_not_fit_is_not_sent(make_board, releases):
    board = make_board()
    board.ask("head -c 700m /dev/zero > /opt/ballast")
    done = board.flash(releases.good)
    assert done.returncode == 2
    assert "make room" in done.stderr
    assert board.ask("ls ~") == ""
