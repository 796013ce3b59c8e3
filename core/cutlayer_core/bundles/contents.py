"""The files of a bundle, before any of them is trusted: their names and sizes are checked first, then each is read once."""

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from cutlayer_core.errors import UserError

__all__ = ["MAX_BUNDLE_BYTES", "Contents"]

MAX_BUNDLE_BYTES = 1 << 30
"""Limit on the unpacked size of all files together."""
_MOST_ENTRIES = 64
_MOST_TIMES = 100
"""How many times its packed size a zip may unpack to; weights hardly shrink, and text by less."""
_UNREADABLE = (
    *(OSError, KeyError, ValueError, RuntimeError, NotImplementedError, EOFError),
    *(zipfile.BadZipFile, zlib.error),
)


class Contents:
    """A bundle's folder or zip.

    Invariant: together the files have at most `MAX_BUNDLE_BYTES`, no name occurs twice, and `read` gives no more bytes
    than a file was listed with.

    Args:
        path: the folder, or the zip.

    Raises:
        UserError: it is neither, or its files are too many or too large; nothing has been unpacked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._sizes = self._in_folder() if path.is_dir() else self._in_zip()
        except UserError:
            raise
        except _UNREADABLE as error:
            raise self._refused(f"cannot be read: {error}") from error
        if (total := sum(self._sizes.values())) > MAX_BUNDLE_BYTES:
            raise self._refused(f"holds {total} bytes, allowed: up to {MAX_BUNDLE_BYTES}")

    def require_only(self, names: Iterable[str]) -> None:
        """Raise `UserError` if there is anything else than files of these names."""
        found = {each.name for each in self._path.iterdir()} if self._path.is_dir() else self._sizes.keys()
        if others := sorted(found - set(names)):
            raise self._refused(f"holds {others[0]!r}, which no bundle of its kind has")

    def read(self, name: str) -> bytes:
        """The content of a file. Raises `UserError` if there is no such file, or it is damaged."""
        if name not in self._sizes:
            raise self._refused(f"{name} is missing or no plain file")
        try:
            if self._path.is_dir():
                with (self._path / name).open("rb") as file:
                    return file.read(self._sizes[name])
            with zipfile.ZipFile(self._path) as archive, archive.open(name) as member:
                return member.read(self._sizes[name])
        except _UNREADABLE as error:
            raise self._refused(f"{name} cannot be read: {error}") from error

    def _in_folder(self) -> dict[str, int]:
        plain = (each for each in self._path.iterdir() if each.is_file() and not each.is_symlink())
        return {each.name: each.stat().st_size for each in plain}

    def _in_zip(self) -> dict[str, int]:
        packed = self._path.stat().st_size
        if packed > MAX_BUNDLE_BYTES:
            raise self._refused(f"has {packed} bytes, allowed: up to {MAX_BUNDLE_BYTES}")
        with zipfile.ZipFile(self._path) as archive:
            entries = archive.infolist()
        sizes = {each.filename: each.file_size for each in entries}
        if len(entries) > _MOST_ENTRIES or len(sizes) < len(entries):
            raise self._refused(f"lists {len(entries)} files, some twice or more than a bundle has")
        if (total := sum(sizes.values())) > _MOST_TIMES * packed:
            raise self._refused(f"would unpack from {packed} to {total} bytes, which no bundle does")
        return sizes

    def _refused(self, why: str) -> UserError:
        return UserError(f"bundle {self._path}: {why}")
