"""Releases on a board: installed, tried, switched to, and rolled back if the device does not come up with one."""

import grp
import os
import platform
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from cutlayer_core.bundles.release import CONFIG, PROGRAM, Release, check_files, read_release
from cutlayer_core.console import exit_status, stop_on_sigterm
from cutlayer_core.errors import CutlayerError, UserError
from cutlayer_core.files import replace_file

__all__ = ["Installation", "Places", "check_board", "install", "main"]

_UNIT = "cutlayer.service"
_BUILT_YEAR = 2026
_CHECK_S = 600.0
_SETTLES_S = 3.0
"""How long after it was ready a service must still be there."""


class Places(NamedTuple):
    """Where things go.

    Attributes:
        home: the folder of the releases.
        units: the folder of systemd's units.
    """

    home: Path = Path("/opt/cutlayer")
    units: Path = Path("/etc/systemd/system")


class Installation:
    """The releases of a board, of which ``current`` is the one that runs.

    Invariant: ``current`` is no link, or a link to a whole release; what is not whole has a name that ends in .part.

    Args:
        places: where things go.
    """

    def __init__(self, places: Places) -> None:
        home = places.home.resolve()  # /opt may be a link to a larger disk
        self._releases, self._link = home / "releases", home / "current"

    @property
    def current(self) -> Path | None:
        """The release that runs; None before there is one."""
        return self._link.resolve() if self._link.is_symlink() else None

    def add(self, source: Path, release: Release) -> Path:
        """Copy a release into its place, and return that. One already there is checked, and replaced if not whole.

        Raises:
            UserError: there is too little space, or the copy is not whole.
        """
        place = self._releases / release.release
        if place.exists():
            with suppress(UserError):
                check_files(place, release)
                return place
        unfinished, damaged = (place.with_name(f"{place.name}{end}.part") for end in ("", "-damaged"))
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            shutil.copytree(source, unfinished)
            check_files(unfinished, release)
            _set_modes(unfinished)
            os.sync()  # otherwise a power cut could leave names without content
            if place.exists():
                place.rename(damaged)
            unfinished.rename(place)
        except OSError as error:
            raise UserError(f"{place}: cannot be written, nothing was changed: {error}") from error
        finally:
            for path in (unfinished, damaged):
                shutil.rmtree(path, ignore_errors=True)
        return place

    def switch(self, release: Path) -> None:
        """Make this release ``current``, atomically."""
        unfinished = self._link.with_name("current.part")
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(Path("releases") / release.name)
        unfinished.replace(self._link)

    def forget(self) -> None:
        """Have no current release any longer."""
        self._link.unlink(missing_ok=True)

    def prune(self, before: Path | None) -> None:
        """Remove all releases but the current one and ``before``."""
        for path in self._releases.iterdir():
            if path not in (self.current, before):
                shutil.rmtree(path, ignore_errors=True)


def check_board(release: Release, places: Places) -> list[str]:
    """Check that the release is made for this board; returns notes on what is odd but no obstacle.

    Raises:
        UserError: it is not, or does not fit; the text says what is wrong and what to do.
    """
    machine, bits = platform.machine(), 8 * struct.calcsize("P")
    if machine != release.machine or bits != 64:
        raise UserError(
            f"this board is {machine} with a {bits}-bit Python, the release is for {release.machine}: build it with another --os, "
            "or install the 64-bit system"
        )
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python != release.python:
        raise UserError(
            f"this board has Python {python}, the release is for {release.python}: build it with another --os"
        )
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    if _numbers(libc.removeprefix("glibc ")) < _numbers(release.glibc):
        raise UserError(
            f"this board has {libc or 'no glibc'}, the release needs {release.glibc}: build it with another --os"
        )
    places.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(places.home).free
    if free < 1.1 * release.bytes:
        raise UserError(
            f"{places.home} has {free / 1e6:.0f} MB free, the release takes {release.bytes / 1e6:.0f} MB: make room, nothing was changed"
        )
    if time.gmtime().tm_year < _BUILT_YEAR:
        return [
            f"this board's clock says {time.strftime('%Y-%m-%d', time.gmtime())}: certificates will look as if of the future"
        ]
    return []


def install(source: Path, places: Places, *, start: bool = True) -> Path:
    """Install the release in ``source`` and start it; if it does not come up, what ran before runs again.

    Args:
        source: the unpacked release.
        places: where things go.
        start: whether systemd should run it now; otherwise it is enabled for the next boot of the board.

    Raises:
        UserError: it is not for this board, does not fit, or is not whole; nothing was changed.
        CutlayerError: it does not work here; what was there before has been restored.
    """
    release, installation = read_release(source), Installation(places)
    for oddity in check_board(release, places):
        print(f"note: {oddity}")
    before = installation.current
    place = installation.add(source, release)
    print(f"release {release.release}, {release.bytes / 1e6:.0f} MB, is in {place}")
    try:
        print(_tried(place))
    except CutlayerError:
        if place != before:
            shutil.rmtree(place)
        raise
    try:
        _bring_up(installation, place, places, start=start)
    except BaseException as error:  # also a lost connection, Ctrl-C, and a full disk
        _take_back(installation, before, place, places, start=start)
        if not isinstance(error, CutlayerError | OSError):
            raise
        back = f"release {before.name} runs again" if before else "nothing is installed"
        raise CutlayerError(f"release {release.release} does not come up, {back}: {error}") from error
    installation.prune(before)
    return place


def _bring_up(installation: Installation, place: Path, places: Places, *, start: bool) -> None:
    """Switch to a release, and wait until its service is ready, and still there a moment later."""
    _put_unit(place, places)
    installation.switch(place)
    with suppress(CutlayerError) if not start else nullcontext():  # on a first boot systemd may not listen yet
        _systemctl("daemon-reload")
    _systemctl("enable", _UNIT)
    if start:
        _restart()
        time.sleep(_SETTLES_S)
        _systemctl("is-active", _UNIT)


def _restart() -> None:
    """Restart the service, and return when it says that it is ready; one that systemd had given up is tried again."""
    with suppress(CutlayerError):
        _systemctl("reset-failed", _UNIT)
    _systemctl("restart", _UNIT)


def _set_modes(root: Path) -> None:
    """Let the service's user read all but the keys, whatever the umask was when this was unpacked and copied."""
    keys = root / "tls"
    for path in (root.parent.parent, root.parent, root, *root.rglob("*")):
        secret = path == keys or keys in path.parents
        program = path.is_dir() or path.parent.name == "bin"
        path.chmod((0o700 if secret else 0o755) if program else (0o600 if secret else 0o644))


def _tried(place: Path) -> str:
    """Run the release's own check in a separate process, which may die of an instruction that the processor lacks."""
    words = [str(place / PROGRAM), "check", str(place / CONFIG)]
    try:
        # In its own folder: in another one, anybody's file could pass for a module.
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_CHECK_S, cwd=place)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CutlayerError(f"the release cannot be run here: {error}") from error
    if done.returncode:
        why = (
            f"killed by signal {-done.returncode}"
            if done.returncode < 0
            else (done.stderr.strip() or "no word").splitlines()[-1]
        )
        hint = ": a package has instructions that this processor lacks" if done.returncode == -4 else ""
        raise CutlayerError(f"the release does not work here: {why}{hint}; nothing was changed")
    return done.stdout.strip()


def _take_back(installation: Installation, before: Path | None, place: Path, places: Places, *, start: bool) -> None:
    """Restore what was there before."""
    if before is None:
        with suppress(CutlayerError):
            _systemctl("disable", "--now", _UNIT)
        (places.units / _UNIT).unlink(missing_ok=True)
        installation.forget()
    else:
        installation.switch(before)
        _put_unit(before, places)
        with suppress(CutlayerError):
            _systemctl("daemon-reload")
            if start:
                _restart()
    if place != before:
        shutil.rmtree(place, ignore_errors=True)


def _put_unit(place: Path, places: Places) -> None:
    """Write the unit, with only those of its groups that exist on this board."""
    text = (place / _UNIT).read_text("utf-8")
    line = next(line for line in text.splitlines() if line.startswith("SupplementaryGroups="))
    known = {group.gr_name for group in grp.getgrall()}
    groups = [name for name in line.partition("=")[2].split() if name in known]
    places.units.mkdir(parents=True, exist_ok=True)
    replace_file(places.units / _UNIT, text.replace(line, f"SupplementaryGroups={' '.join(groups)}").encode())


def _systemctl(*words: str) -> None:
    try:
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise CutlayerError(f"systemctl cannot be run: {error}") from error
    if done.returncode:
        raise CutlayerError(f"systemctl {' '.join(words)}: {done.stderr.strip() or f'status {done.returncode}'}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def main(source: Path, words: Sequence[str]) -> None:
    """``python3 install.py [--no-start]``, as root, in the folder of an unpacked release."""
    if unknown := set(words) - {"--no-start"}:
        raise SystemExit(f"install.py: found {unknown.pop()!r}, allowed: --no-start")
    os.umask(0o022)  # whoever unpacked it may have had another
    if os.geteuid() != 0:
        raise SystemExit("install.py: has to write to /opt and /etc: run it with sudo")
    with exit_status(), stop_on_sigterm():
        place = install(source, Places(), start="--no-start" not in words)
        print(f"{place}: installed{'' if words else ' and running; see journalctl -u cutlayer'}")
