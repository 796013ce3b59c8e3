"""What a model is made from besides its recipe: the code that was imported and the files that were read for it."""

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["Sources", "digest", "packages"]

_SYSTEM = ("/proc/", "/sys/", "/dev/", "/run/")
_BLOCK = 1 << 20


class Sources:
    """Listens, while it is entered, to which files this process opens; a process needs one of them.

    Python's audit events tell of every file that Python code opens. What a library reads by itself goes unnoticed.
    """

    def __init__(self) -> None:
        self._opened = set[str]()
        self._listening = False
        sys.addaudithook(self._heard)

    def __enter__(self) -> "Sources":
        self._listening = True
        return self

    def __exit__(self, *_: object) -> None:
        self._listening = False

    def digests(self, also: Iterable[str] = ()) -> dict[str, str]:
        """The `digest` of each file read, of all imported code that is in no installed package, and of ``also``."""
        code = (getattr(each, "__file__", None) for each in list(sys.modules.values()))
        paths = {*self._opened, *filter(None, code), *filter(None, also)}
        own = {str(Path(each).resolve()) for each in paths}
        found = {path: digest(path) for path in sorted(own) if _is_own(path)}
        return {path: value for path, value in found.items() if value}

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._listening or event != "open":
            return
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR) if isinstance(flags, int) else "w" in (mode or "")
        if isinstance(path, str | bytes | os.PathLike) and not writes:
            self._opened.add(str(Path(os.fsdecode(path)).absolute()))


def digest(path: str) -> str:
    """The SHA-256 of a file's content; empty if there is no such file."""
    found = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
    except OSError:
        return ""
    return found.hexdigest()


def packages() -> list[str]:
    """Names, versions and times of installation of all packages: one may be installed again with other code."""
    folders = (each for folder in _folders() for each in Path(folder).glob("*.dist-info"))
    return sorted({f"{each.name} {each.stat().st_mtime_ns}" for each in folders})


def _is_own(path: str) -> bool:
    """Whether a file belongs to the user, and not to the system, to Python or to an installed package."""
    return not path.startswith((*_SYSTEM, *_folders())) and not path.endswith(".pyc") and Path(path).is_file()


def _folders() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({str(Path(sysconfig.get_path(name)).resolve()) for name in names})
