"""Where a board is read: its own ``/sys``, ``/proc`` and commands, or a copy of another board's."""

import subprocess
from pathlib import Path

__all__ = ["Root"]

_COMMAND_S = 5.0


class Root:
    """A board's files and the output of its commands.

    A copy, as `cutlayer doctor --capture` makes it, has the files at the same places below its folder, and the output of a
    command in ``commands/``, under the command's words joined by ``_``. Whatever is read from a copy is `simulated`: a
    meter asks its root, so no caller can say otherwise.

    Args:
        path: ``/``, or the copy's folder.
    """

    def __init__(self, path: Path = Path("/")) -> None:
        self.path = path

    @property
    def replaced(self) -> bool:
        """Whether this is a copy."""
        return self.path.resolve() != Path("/")

    def read(self, name: str) -> str:
        """The text of a file below the root, without null characters and white space around it. Raises `OSError`."""
        return (self.path / name).read_bytes().decode("utf-8", "replace").strip("\0 \t\r\n")

    def number(self, name: str) -> float:
        """The number in a file that holds only one. Raises `OSError`, and `ValueError` if it is not a number."""
        return float(self.read(name))

    def glob(self, pattern: str) -> list[str]:
        """Names below the root, sorted."""
        return sorted(str(path.relative_to(self.path)) for path in self.path.glob(pattern))

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.path / name).exists()

    def run(self, *words: str) -> str:
        """What a command prints.

        Raises:
            OSError: there is no such command, it failed (the text is what it said), or it took too long.
        """
        if self.replaced:
            return (self.path / "commands" / "_".join(words)).read_text()
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise OSError(f"{words[0]} took longer than {_COMMAND_S:g} s") from error
        if done.returncode:
            raise OSError(f"{words[0]}: {(done.stdout + done.stderr).strip() or f'status {done.returncode}'}")
        return done.stdout
