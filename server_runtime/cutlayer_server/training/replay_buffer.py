"""Smashed data that the server keeps, to train on when nothing travels."""

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

from cutlayer_core.errors import CutlayerError, MessageError
from cutlayer_core.wire.messages import Message, decode, encode

__all__ = ["Pass", "ReplayBuffer"]

Pass: TypeAlias = tuple[str, int]
"""A device and an epoch."""

_LENGTH_BYTES = 4


class ReplayBuffer:
    """The batches of whole passes, encoded as they came, in one file per device and epoch.

    They go straight to disk, so memory never holds more than one batch, and a crash loses nothing that a checkpoint
    refers to.

    Args:
        folder: used by nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._epochs: dict[str, int] = {}

    def begin(self, device: str, epoch: int, batches: int) -> None:
        """Begin a device's pass, or resume one of which ``batches`` are already here.

        Raises:
            CutlayerError: they are not.
        """
        path = self._path(device, epoch)
        path.parent.mkdir(parents=True, exist_ok=True)
        length = 0
        if batches:
            with _reading(path) as file:
                for _ in range(batches):
                    length += _LENGTH_BYTES + len(_record(file, path))
        path.touch()
        os.truncate(path, length)
        self._epochs[device] = epoch

    def add(self, device: str, message: Message) -> None:
        """Keep a batch of the pass that this device has begun. Raises `OSError` on a full disk."""
        data = encode(message)
        with self._path(device, self._epochs[device]).open("ab") as file:
            file.write(len(data).to_bytes(_LENGTH_BYTES, "little") + data)

    def end(self, device: str) -> None:
        """End a pass that is over or was broken off; what was added is then on the disk."""
        if device in self._epochs:
            self._sync(self._path(device, self._epochs.pop(device)))

    def sync(self) -> None:
        """Return once everything added is on the disk."""
        for device, epoch in self._epochs.items():
            self._sync(self._path(device, epoch))

    def read(self, device: str, epoch: int, start: int = 0) -> Iterator[Message]:
        """The batches of a pass from number ``start`` on, as they came; no file stays open between them.

        Raises:
            CutlayerError: they are not there, or damaged.
        """
        path, at = self._path(device, epoch), 0
        for number in itertools.count():
            with _reading(path) as file:
                if at == os.fstat(file.fileno()).st_size:
                    return
                file.seek(at)
                data = _record(file, path)
                at = file.tell()
            if number >= start:
                try:
                    yield decode(data)
                except MessageError as error:
                    raise _damaged(path) from error

    @property
    def going_on(self) -> set[Pass]:
        """Passes that have begun but not ended."""
        return set(self._epochs.items())

    def keep_only(self, passes: set[Pass]) -> None:
        """Remove all other passes."""
        kept = {self._path(device, epoch) for device, epoch in passes}
        for path in self._folder.glob("*/*.batches"):
            if path not in kept:
                path.unlink()

    def clear(self) -> None:
        """Remove everything: the run is over."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _sync(self, path: Path) -> None:
        for each in (path, path.parent, self._folder):
            number = os.open(each, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)

    def _path(self, device: str, epoch: int) -> Path:
        return self._folder / device / f"{epoch}.batches"


def _reading(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _damaged(path) from error


def _record(file: BinaryIO, path: Path) -> bytes:
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    data = file.read(length)
    if not length or len(data) < length:
        raise _damaged(path)
    return data


def _damaged(path: Path) -> CutlayerError:
    return CutlayerError(f"{path}: the smashed data that this run keeps are not there; start the trial anew")
