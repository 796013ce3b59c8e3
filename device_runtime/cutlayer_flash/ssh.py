"""Deploys to a running board by ssh: inspect it, then send the release, which is checked and installs itself."""

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple

from cutlayer_core.bundles.release import Release
from cutlayer_core.errors import CutlayerError, UserError
from cutlayer_flash.archive import Archive
from cutlayer_flash.boards import BOARDS

__all__ = ["Login", "deploy", "look_over", "problems_of"]

_PLACE = "/opt"
_LATEST_S = 300.0
_LEAST_FREE = 2.2
"""Free space needed, as a multiple of a release's size: unpacked in the login's home, and in its place."""

_LOOK = """\
echo machine=$(uname -m)
echo bits=$(getconf LONG_BIT)
echo glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
echo model=$(tr -d '\\000' < /proc/device-tree/model 2>/dev/null)
echo python=$(ls {python} 2>/dev/null)
echo free_kb=$(df -Pk {place} | tail -1 | awk '{{print $4}}')
echo home_kb=$(df -Pk . | tail -1 | awk '{{print $4}}')
echo now=$(date +%s)
echo user=$(id -u)
echo sudo=$(sudo -n true 2>/dev/null && echo yes)
echo systemctl=$(command -v systemctl || true)
echo current=$(basename "$(readlink /opt/cutlayer/current 2>/dev/null)" 2>/dev/null)
"""


class Login(NamedTuple):
    """Where to log in.

    Attributes:
        address: user@host, as for ssh.
        options: more options for ssh, such as -p 2222.
        dry_run: only print the commands that change something.
    """

    address: str
    options: tuple[str, ...] = ()
    dry_run: bool = False


class _Connection:
    """One connection for all commands, so that a passphrase is asked for only once."""

    def __init__(self, login: Login, folder: Path, show: Callable[[str], None]) -> None:
        self._login, self._show = login, show
        shared = ["-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/%C", "-o", "ControlPersist=30"]
        self._ssh = ["ssh", *shared, "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3", *login.options]

    def ask(self, script: str) -> str:
        """Run a script that changes nothing; returns what it prints."""
        done = subprocess.run([*self._ssh, self._login.address, script], capture_output=True, text=True, check=False)
        if done.returncode:
            raise CutlayerError(
                f"{self._login.address}: {done.stderr.strip() or f'ssh ended with status {done.returncode}'}"
            )
        return done.stdout

    def do(self, script: str, source: IO[bytes] | None = None, *, terminal: bool = False) -> None:
        """Run a script, fed with a file; with a terminal if sudo may ask for a password, which we never see."""
        self._show(script)
        if self._login.dry_run:
            return
        words = [*self._ssh, *(["-t"] if terminal else []), self._login.address, script]
        status = subprocess.run(words, stdin=source, check=False).returncode
        if status:
            raise CutlayerError(
                f"{self._login.address}: {script.split(';', maxsplit=1)[0]!r} ended with status {status}: see above"
            )

    def close(self) -> None:
        subprocess.run([*self._ssh, "-O", "exit", self._login.address], capture_output=True, check=False)


def deploy(archive: Archive, login: Login, *, start: bool, show: Callable[[str], None]) -> None:
    """Inspect the board, send the release, and have it install itself.

    Args:
        archive: the release to send.
        login: where to log in.
        start: whether the service should run now.
        show: called with each command that changes something, and with what was found.

    Raises:
        UserError: the release is not for this board, or does not fit on it; nothing was sent.
        CutlayerError: the connection was lost, or the release does not come up; what ran before keeps running.
    """
    with TemporaryDirectory(prefix="cutlayer-") as folder:
        connection = _Connection(login, Path(folder), show)
        try:
            found = look_over(connection.ask, archive.release)
            problems, notes = problems_of(found, archive.release, time.time())
            for note in notes:
                show(f"# note: {note}")
            if problems:
                raise UserError(f"{login.address}: {'; '.join(problems)}")
            _send_and_install(connection, archive, found, start=start)
        finally:
            connection.close()


def look_over(ask: Callable[[str], str], release: Release) -> dict[str, str]:
    """Ask a board about itself; returns what it says by name."""
    answer = ask(_LOOK.format(python=_interpreter(release), place=_PLACE))
    return dict(line.partition("=")[::2] for line in answer.splitlines() if "=" in line)


def problems_of(found: Mapping[str, str], release: Release, now: float) -> tuple[list[str], list[str]]:
    """What stands in the way of a release on such a board, and notes on what is odd."""
    problems, notes = [], []
    if (found.get("machine"), found.get("bits")) != (release.machine, "64"):
        problems.append(
            f"it is {found.get('machine')} with {found.get('bits')} bits, the release is for {release.machine} with 64: install the 64-bit system, "
            "or build for another --os"
        )
    if not found.get("python"):
        problems.append(f"it has no {_interpreter(release)}: build for the --os that it has")
    if _numbers(found.get("glibc", "")) < _numbers(release.glibc):
        problems.append(
            f"its glibc is {found.get('glibc') or 'none'}, the release needs {release.glibc}: build for the --os that it has"
        )
    free = 1024 * min(int(found.get(key) or 0) for key in ("free_kb", "home_kb"))
    if free < _LEAST_FREE * release.bytes:
        problems.append(
            f"it has {free / 1e6:.0f} MB free, needed are {_LEAST_FREE * release.bytes / 1e6:.0f} MB: make room"
        )
    if not found.get("systemctl"):
        problems.append(
            "it has no systemd: unpack the release there and run bin/cutlayer-device by hand (docs/boards.md)"
        )
    models = BOARDS[release.board].models
    if models and not found.get("model", "").startswith(models):
        notes.append(
            f"it calls itself {found.get('model') or 'nothing'!r}, the release is for {BOARDS[release.board].title}"
        )
    if abs(int(found.get("now") or 0) - now) > _LATEST_S:
        notes.append(
            "its clock is wrong, so it will not trust certificates: let it reach a time server, or set it with `date -s`"
        )
    if found.get("current"):
        notes.append(f"it runs release {found['current']}")
    return problems, notes


def _send_and_install(connection: _Connection, archive: Archive, found: Mapping[str, str], *, start: bool) -> None:
    name = f"{archive.folder}.tar.gz"
    with archive.path.open("rb") as file:
        connection.do(f"umask 077; cat > {name}.part && mv {name}.part {name}", file)
    connection.do(f"echo '{archive.sha256}  {name}' | sha256sum -c --quiet")
    root = [] if found.get("user") == "0" else ["sudo"]
    words = [*root, _interpreter(archive.release), f"{archive.folder}/install.py", *([] if start else ["--no-start"])]
    tidy = f"rm -rf {archive.folder} {name}"
    script = f"umask 077; tar xzf {name} && {shlex.join(words)}; status=$?; {tidy}; exit $status"
    connection.do(script, terminal=bool(root) and not found.get("sudo"))


def _interpreter(release: Release) -> str:
    return f"/usr/bin/python{release.python}"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]
