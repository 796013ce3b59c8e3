"""A release as one file, whose manifest is read without unpacking it."""

import re
import tarfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from cutlayer_core.bundles.release import MANIFEST, Release, hash_of
from cutlayer_core.errors import UserError
from cutlayer_flash.boards import BOARDS

__all__ = ["Archive", "read_archive"]

_FOLDER = re.compile(r"cutlayer-(?P<release>[0-9a-f]{12})")
_MOST_BYTES = 1 << 24


class Archive(NamedTuple):
    """The file that `cutlayer flash build` wrote, what is in it, and its SHA-256."""

    path: Path
    release: Release
    sha256: str

    @property
    def folder(self) -> str:
        """The folder that it unpacks to."""
        return f"cutlayer-{self.release.release}"


def read_archive(path: Path) -> Archive:
    """Read a release's manifest. Raises `UserError` if the file is no release, or not whole."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            found = next((each for each in archive if each.name.endswith(f"/{MANIFEST}")), None)
            match = _FOLDER.fullmatch(found.name.partition("/")[0]) if found else None
            if found is None or match is None or found.size > _MOST_BYTES:
                raise UserError(f"{path}: is not a release of cutlayer: build one with `cutlayer flash build`")
            file = archive.extractfile(found)
            release = msgspec.json.decode(file.read() if file else b"", type=Release)
            for _ in archive:  # read to its end, or half a download would pass
                pass
        if release.board not in BOARDS:
            raise UserError(
                f"{path}: is a release of cutlayer for the board {release.board!r}, which this cutlayer does not know"
            )
    except (OSError, EOFError, tarfile.TarError, msgspec.MsgspecError) as error:
        raise UserError(f"{path}: is not a whole release of cutlayer: {error}") from error
    return Archive(path, release, hash_of(path))
