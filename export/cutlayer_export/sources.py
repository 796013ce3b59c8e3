"""What a model is made from besides its recipe: the code that was imported and the files that were read for it."""

import hashlib
import os
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Sources", "packages", "unchanged"]

_SYSTEM = ("/proc/", "/sys/")
_WEIGHTS = frozenset(
    [
        ".bin",
        ".ckpt",
        ".gguf",
        ".h5",
        ".hdf5",
        ".keras",
        ".msgpack",
        ".npy",
        ".npz",
        ".onnx",
        ".pkl",
        ".pt",
        ".pth",
        ".safetensors",
        ".tflite",
    ]
)
"""What files of weights end in: those beside the code count too, since many readers open them without Python."""
_ABSENT, _BLOCK = "absent", 1 << 20


class Sources:
    """Listens, while it is entered, to which files this process opens to read them.

    Made before any of the user's code runs, and once in a process. Python's audit events (PEP 578) tell of every file
    that Python code opens, also of those that are not there.
    """

    def __init__(self) -> None:
        self._begun_ns = time.time_ns()
        self._opened = set[str]()
        self._listening = False
        sys.addaudithook(self._heard)

    def __enter__(self) -> "Sources":
        self._listening = True
        return self

    def __exit__(self, *_: object) -> None:
        self._listening = False

    def found(self, also: Iterable[str] = ()) -> dict[str, str] | None:
        """For each file what `unchanged` compares; None if one was changed since this began, perhaps after it was read.

        The files are those that were opened, all imported code that is in no installed package, ``also``, and weights
        that lie beside one of these.
        """
        code = (getattr(each, "__file__", None) for each in list(sys.modules.values()))
        named = {str(Path(each).absolute()) for each in (*self._opened, *code, *also) if each}
        own = {each for each in named if _is_own(each)}
        if any(_changed_ns(each) > self._begun_ns for each in own):
            return None
        beside = {each for each in _weights_beside(own) if each not in own}
        return {each: _content(each) for each in own} | {each: _state(each) for each in beside}

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._listening or event != "open":
            return
        path, mode, flags = arguments
        if isinstance(path, str | bytes | os.PathLike) and _reads(mode, flags):
            self._opened.add(str(Path(os.fsdecode(path)).absolute()))


def unchanged(found: Mapping[str, str]) -> bool:
    """Whether all files are still what `Sources.found` says."""
    return all((_state if said.startswith("stat ") else _content)(path) == said for path, said in found.items())


def packages() -> list[str]:
    """Names, versions and times of installation of all packages: one may be installed again with other code."""
    folders = (each for folder in _folders() for each in Path(folder).glob("*.dist-info"))
    return sorted({f"{each.name} {each.stat().st_mtime_ns}" for each in folders})


def _reads(mode: str | None, flags: Any) -> bool:
    if isinstance(flags, int):
        return not flags & (os.O_WRONLY | os.O_TRUNC | os.O_APPEND)
    return not {"w", "a", "x"} & set(mode or "")


def _is_own(path: str) -> bool:
    """Whether a path belongs to the user, and not to the system, to Python or to an installed package."""
    return not path.startswith((*_SYSTEM, *_folders())) and "/__pycache__/" not in path


def _folders() -> tuple[str, ...]:
    named = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple({f"{path}/" for each in named for path in (each, each.resolve())})


def _weights_beside(paths: Iterable[str]) -> Iterator[str]:
    for folder in {Path(each).parent for each in paths}:
        if folder.is_dir():
            yield from (str(each) for each in folder.iterdir() if each.suffix in _WEIGHTS)


def _content(path: str) -> str:
    """The SHA-256 of a file, through links, which may come to lead elsewhere."""
    found = hashlib.sha256()
    try:
        if not Path(path).is_file():  # a pipe would be waited for
            return _ABSENT
        with Path(path).open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
    except OSError:
        return _ABSENT
    return found.hexdigest()


def _state(path: str) -> str:
    """Size and times of a file, which may be too large to read each time."""
    try:
        seen = Path(path).stat()
    except OSError:
        return f"stat {_ABSENT}"
    return f"stat {seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns}"


def _changed_ns(path: str) -> int:
    """When a file, or a link to it, was last changed; 0 if there is none."""
    try:
        seen = [Path(path).stat(), Path(path).lstat()]
    except OSError:
        return 0
    return max(max(each.st_mtime_ns, each.st_ctime_ns) for each in seen)
