"""The Python packages of a board, chosen and fetched on the laptop: for the board's Python, libc and processor.

uv does both, since it evaluates the markers of all requirements for the board (pip does so for the laptop), and accepts
every wheel that the board's libc can run, whatever its manylinux tag.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

from cutlayer_core.errors import CutlayerError
from cutlayer_flash.boards import System

__all__ = ["fetch", "lock", "requirements"]

_NEWEST_GLIBC = 40
"""Newest glibc among the platforms that uv knows; wheels for a newer one do not exist yet."""
_NOT_NEEDED = (
    "bin",
    ".lock",
    "*.dist-info/RECORD",  # has hashes of programs in bin, which refer to the laptop's Python
    "**/tests",
    "**/*.pyi",
    "numpy/_core/include",
    "numpy/f2py",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "zstandard/_cffi*",  # the same once more, for PyPy
    # What onnxruntime for Python 3.10 requires, but needs only for its own tools.
    "sympy*",
    "isympy.py",
    "mpmath*",
    "coloredlogs*",
    "humanfriendly*",
)
"""Files of packages of which nothing runs on a board."""


_EXTRAS = ("images", "updates", "zstd")
"""What not every board needs, but a release has: its board may be given any trial."""


def requirements(extra: str = "device") -> list[str]:
    """What cutlayer with this extra requires on any board, by its metadata, with the markers that the board evaluates."""
    found = []
    for text in requires("cutlayer") or ():
        each = Requirement(text)
        if each.marker is not None and "extra" in str(each.marker):
            if not any(each.marker.evaluate({"extra": name}) for name in (extra, *_EXTRAS)):
                continue
            each.marker = None
        found.append(str(each))
    return found


def lock(wanted: Sequence[str], system: System) -> str:
    """The newest versions that work together on that system, with the hashes of their files.

    Raises:
        CutlayerError: there are none, or no registry can be reached.
    """
    words = ["compile", "-", *_platform(system), "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
    return _uv(words, "\n".join(wanted) + "\n")


def fetch(locked: str, system: System, site: Path) -> None:
    """Put the packages of a lock into a folder, without what no board needs.

    Raises:
        CutlayerError: a package cannot be fetched, or is not what the lock says.
    """
    words = ["install", "--requirements", "-", *_platform(system), "--require-hashes", "--no-deps", "--quiet"]
    _uv([*words, "--target", str(site), "--link-mode", "copy", "--python", sys.executable], locked)
    for pattern in _NOT_NEEDED:
        for path in sorted(site.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _platform(system: System) -> list[str]:
    python = ".".join(map(str, system.python))
    platform = f"{system.machine}-manylinux_2_{min(system.glibc, _NEWEST_GLIBC)}"
    return ["--python-version", python, "--python-platform", platform, "--only-binary", ":all:"]


def _uv(words: Sequence[str], text: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "uv", "pip", *words], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CutlayerError(f"the board's packages cannot be had: {done.stderr.strip()}")
    return done.stdout
