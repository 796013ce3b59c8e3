"""Boards, and the systems that they run: whether a release can be built for them, or what to do instead."""

from typing import NamedTuple

from cutlayer_core.errors import UserError

__all__ = ["BOARDS", "SYSTEMS", "Board", "System", "Target", "target_of"]

_LEAST_PYTHON = (3, 10)


class System(NamedTuple):
    """A system, and what it brings.

    Attributes:
        title: its name for people.
        machine: as ``platform.machine()`` reports it.
        python: version of its own Python.
        glibc: minor version of its glibc.
    """

    title: str
    machine: str
    python: tuple[int, int]
    glibc: int

    @property
    def interpreter(self) -> str:
        """Path of the system's Python."""
        return f"/usr/bin/python{self.python[0]}.{self.python[1]}"


class Board(NamedTuple):
    """A board, what ``/proc/device-tree/model`` begins with on it, and the systems made for it."""

    title: str
    models: tuple[str, ...]
    systems: tuple[str, ...]


class Target(NamedTuple):
    """A board with a system, by their names."""

    board: str
    os: str

    @property
    def system(self) -> System:
        """What the system brings."""
        return SYSTEMS[self.os]

    @property
    def models(self) -> tuple[str, ...]:
        """See `Board`."""
        return BOARDS[self.board].models


SYSTEMS = {
    "bookworm": System("Raspberry Pi OS or Debian 12, 64-bit", "aarch64", (3, 11), 36),
    "trixie": System("Raspberry Pi OS or Debian 13, 64-bit", "aarch64", (3, 13), 41),
    "noble": System("Ubuntu 24.04", "aarch64", (3, 12), 39),
    "jp6": System("JetPack 6 (Ubuntu 22.04)", "aarch64", (3, 10), 35),
    "jp5": System("JetPack 5 (Ubuntu 20.04)", "aarch64", (3, 8), 31),
    "jp4": System("JetPack 4 (Ubuntu 18.04)", "aarch64", (3, 6), 27),
    "bookworm-32": System("Raspberry Pi OS or Debian 12, 32-bit", "armv7l", (3, 11), 36),
    "trixie-32": System("Raspberry Pi OS or Debian 13, 32-bit", "armv7l", (3, 13), 41),
    "bookworm-pc": System("Debian 12 on a PC", "x86_64", (3, 11), 36),
}

_PI = ("bookworm", "trixie", "noble", "bookworm-32", "trixie-32")
BOARDS = {
    "pi3": Board("Raspberry Pi 3", ("Raspberry Pi 3",), _PI),
    "pi4": Board("Raspberry Pi 4", ("Raspberry Pi 4", "Raspberry Pi 400", "Raspberry Pi Compute Module 4"), _PI),
    "pi5": Board("Raspberry Pi 5", ("Raspberry Pi 5", "Raspberry Pi 500", "Raspberry Pi Compute Module 5"), _PI),
    "pi-zero2w": Board("Raspberry Pi Zero 2 W", ("Raspberry Pi Zero 2",), _PI),
    "jetson-orin": Board(
        "Jetson Orin", ("NVIDIA Jetson Orin", "NVIDIA Jetson AGX Orin", "NVIDIA Orin"), ("jp6", "jp5")
    ),
    "jetson-xavier": Board(
        "Jetson Xavier", ("NVIDIA Jetson Xavier", "NVIDIA Jetson AGX Xavier", "Jetson-AGX"), ("jp5",)
    ),
    "jetson-nano": Board("Jetson Nano", ("NVIDIA Jetson Nano",), ("jp4",)),
    "pc": Board("PC", (), ("bookworm-pc",)),
}

_WAYS_OUT = {
    "jp5": "install JetPack 6 where the module takes it (Orin does, Xavier does not), or run the board's part on another board",
    "jp4": "there is no newer JetPack for the Jetson Nano: take another board for this trial",
    "bookworm-32": "install the 64-bit system, which runs on every board of this list, or set the board up by hand (docs/install.md)",
    "trixie-32": "install the 64-bit system, which runs on every board of this list",
}


def target_of(board: str, os: str) -> Target:
    """A board and a system for which a release can be built.

    Raises:
        UserError: there is no such board or system, they do not go together, or what cutlayer needs does not exist for
            them.
    """
    if board not in BOARDS:
        raise UserError(f"--board: found {board!r}, allowed: {', '.join(BOARDS)}")
    systems = BOARDS[board].systems
    if os not in systems:
        raise UserError(f"--os: found {os!r}, allowed for {board}: {', '.join(systems)}")
    system, way_out = SYSTEMS[os], _WAYS_OUT.get(os, "")
    if system.python < _LEAST_PYTHON:
        found, needed = (".".join(map(str, version)) for version in (system.python, _LEAST_PYTHON))
        raise UserError(f"--os {os}: {system.title} has Python {found}, cutlayer needs {needed}: {way_out}")
    if system.machine == "armv7l":
        raise UserError(f"--os {os}: PyPI has no numpy and no msgspec for 32-bit ARM: {way_out}")
    return Target(board, os)
