"""Files that stay whole through any crash, and locks that one process holds."""

import fcntl
import os
from pathlib import Path
from typing import IO

from cutlayer_core.errors import UserError

__all__ = ["lock_file", "replace_file", "swap_number"]


def lock_file(path: Path, mend: str) -> IO[bytes]:
    """Lock a file, which stands for its folder, until the returned file is closed or the process ends in any way.

    Raises:
        UserError: another process holds it; ``mend`` says what to do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise UserError(f"{path.parent}: another process uses it: {mend}") from error
    return lock


def swap_number(path: Path, number: int) -> int:
    """Replace the number that a file holds; returns the old one, or 0 if there was none. Raises `OSError`."""
    try:
        before = int(path.read_text("ascii"))
    except (OSError, ValueError):
        before = 0
    replace_file(path, str(number).encode())
    return before


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file; the new one is on the disk when this returns. Until then, and on failure, the old one stays.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or a power cut could undo the rename
    finally:
        os.close(folder)
