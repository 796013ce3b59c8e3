"""The boot partition of an SD card: mounted by the laptop's system, or inside an image file. Never a block device.

What is on that partition shows which first-boot files the system obeys (Raspberry Pi Imager,
doc/os_customisation_formats.md).
"""

import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path
from typing import Literal, Protocol

from cutlayer_core.errors import CutlayerError, UserError

__all__ = ["Boot", "FirstBoot", "ImageBoot", "MountedBoot", "first_boot_of"]

FirstBoot = Literal["cloud-init", "firstrun", "rpi-preseed"]
_FAT = (0x0B, 0x0C, 0x0E)
_SECTOR = 512
_PRESEED, _CLOUD = "rpi-preseed.toml", ("user-data", "meta-data")


class Boot(Protocol):
    """Files of a boot partition, by their paths from its root."""

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it is not there."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, creating its folder if needed. Raises `CutlayerError` if it does not fit."""

    def copy(self, source: Path, name: str) -> None:
        """Copy a file from the laptop, likewise."""


class MountedBoot:
    """A boot partition that the laptop's system has mounted, such as ``/media/you/bootfs``.

    Raises:
        UserError: it is not the boot partition of a Raspberry Pi.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if folder.is_block_device():
            raise UserError(f"--boot {folder}: is a device: give the folder where its boot partition is mounted")
        if not (folder / "cmdline.txt").is_file() or not (folder / "config.txt").is_file():
            raise UserError(
                f"--boot {folder}: has no cmdline.txt and config.txt: give the folder where the card's boot partition is mounted"
            )

    def read(self, name: str) -> bytes | None:
        """See `Boot`."""
        path = self._folder / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, content: bytes) -> None:
        """See `Boot`."""
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(content)
                os.fsync(file.fileno())  # cards may be pulled out early
        except OSError as error:
            path.unlink(missing_ok=True)  # half a release still has a key in it
            raise CutlayerError(f"{path}: {error.strerror}") from error

    def copy(self, source: Path, name: str) -> None:
        """See `Boot`."""
        self.write(name, source.read_bytes())


class ImageBoot:
    """The boot partition in an image file with a partition table (MBR), through mtools, without mounting it.

    Raises:
        UserError: the file is not an image of a Raspberry Pi's card, or mtools is not installed.
    """

    def __init__(self, image: Path) -> None:
        if not image.exists() or not stat.S_ISREG(image.stat().st_mode):
            raise UserError(
                f"--image {image}: is not a file; for a card, give --boot with where its boot partition is mounted"
            )
        if shutil.which("mcopy") is None:
            raise UserError("--image: needs mtools: apt-get install mtools")
        self._drive = f"{image}@@{_boot_offset(image)}"
        if self.read("config.txt") is None or self.read("cmdline.txt") is None:
            raise UserError(
                f"--image {image}: its first FAT partition has no cmdline.txt and config.txt: it is no Raspberry Pi image"
            )

    def read(self, name: str) -> bytes | None:
        """See `Boot`."""
        done = self._run("mtype", f"::{name}")
        return done.stdout if done.returncode == 0 else None

    def write(self, name: str, content: bytes) -> None:
        """See `Boot`."""
        self._make_folder(name)
        self._require(self._run("mcopy", "-o", "-", f"::{name}", content=content), name)

    def copy(self, source: Path, name: str) -> None:
        """See `Boot`."""
        self._make_folder(name)
        self._require(self._run("mcopy", "-o", str(source), f"::{name}"), name)

    def _make_folder(self, name: str) -> None:
        folder = name.rpartition("/")[0]
        if folder and self._run("mdir", f"::{folder}").returncode:
            self._require(self._run("mmd", f"::{folder}"), folder)

    def _require(self, done: "subprocess.CompletedProcess[bytes]", name: str) -> None:
        if done.returncode:
            raise CutlayerError(
                f"{name}: cannot be written into the image: {done.stderr.decode(errors='replace').strip()}"
            )

    def _run(self, program: str, *words: str, content: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        # The images' FAT is smaller than the standard demands, which mtools minds but no Raspberry Pi does.
        environment = {**os.environ, "MTOOLS_SKIP_CHECK": "1"}
        return subprocess.run(
            [program, "-i", self._drive, *words], input=content, capture_output=True, check=False, env=environment
        )


def first_boot_of(boot: Boot) -> FirstBoot:
    """Which of the three ways of first boot the system on a card uses to set itself up."""
    if boot.read(_PRESEED) is not None:
        return "rpi-preseed"
    if all(boot.read(name) is not None for name in _CLOUD):
        return "cloud-init"
    return "firstrun"


def _boot_offset(image: Path) -> int:
    """Where the first FAT partition begins, in bytes."""
    with image.open("rb") as file:
        table = file.read(_SECTOR)
    if len(table) < _SECTOR or table[510:] != b"\x55\xaa":
        raise UserError(f"--image {image}: has no partition table: is it compressed? unpack it first")
    for number in range(4):
        entry = table[446 + 16 * number : 462 + 16 * number]
        if entry[4] in _FAT:
            start: int = struct.unpack_from("<I", entry, 8)[0]
            return start * _SECTOR
    raise UserError(f"--image {image}: has no FAT partition: it is no Raspberry Pi image")
