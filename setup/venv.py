"""A virtual environment and its pip."""

import subprocess
import sys
from pathlib import Path


class SetupError(Exception):
    """Why the set-up cannot go on, and what to do, for the person who typed `make`."""


class Venv:
    """A virtual environment of the Python that runs this.

    Args:
        folder: where it is, or will be.
        constraints: a file of the exact versions to install.
    """

    def __init__(self, folder: Path, constraints: Path) -> None:
        self.python = folder / "bin" / "python"
        self._folder, self._constraints = folder, constraints

    def make(self) -> None:
        """Make it, unless there is one with a pip and of this Python. One of another Python is replaced."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        if self.python.exists():
            found = self.ask("-c", "import pip, sys; print('%d.%d' % sys.version_info[:2])").stdout.strip()
            if found == version:
                return
            print(f".venv is made anew: it is of Python {found}" if found else ".venv is made anew: it was not whole")
        print(f".venv, with Python {version}", flush=True)
        # All that this Python is asked for here is what it brings itself, so a failure is the disk's or the system's.
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(self._folder)], check=False)
        if made.returncode != 0:
            raise SetupError(f"{sys.executable} could not make {self._folder}: see above.")

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What its Python answers to these words; nothing is shown."""
        return subprocess.run([str(self.python), *words], capture_output=True, text=True, check=False)

    def run(self, *words: str) -> bool:
        """Have its Python do this and show what it says. Whether it could."""
        return subprocess.run([str(self.python), *words], check=False).returncode == 0

    def version_of(self, package: str) -> str | None:
        """The version that is installed, if any."""
        code = f"from importlib.metadata import version; print(version({package!r}))"
        return self.ask("-c", code).stdout.strip() or None

    def pip_words(self, *words: str) -> list[str]:
        """How its pip is called to install, held to the constraints."""
        pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        return [*pip, "--constraint", str(self._constraints), *words]

    def install(self, *words: str) -> None:
        """Have pip install these.

        Raises:
            SetupError: pip could not; it has said why.
        """
        if not self.run(*self.pip_words(*words)):
            raise SetupError(
                f"pip could not install {words[-1]}: its last lines say why. "
                "Mend that (the network, the disk, the settings that `pip config list` shows) and run make again."
            )
