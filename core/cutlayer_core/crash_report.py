"""A file about a mistake of ours: what somebody needs who is to mend it."""

import platform
import sys
import tempfile
import traceback
from importlib.metadata import distributions
from pathlib import Path

from cutlayer_core import __version__

__all__ = ["write_crash_report"]


def write_crash_report(error: BaseException) -> Path | None:
    """Write the command, the versions and the traceback of ``error`` to a new file; None if nothing can be written."""
    packages = sorted(f"{each.metadata['Name']} {each.version}" for each in distributions())
    text = "\n".join(
        (
            f"cutlayer {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"command: {' '.join(sys.argv)}",
            "",
            "".join(traceback.format_exception(error)),
            *packages,
            "",
        )
    )
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace", prefix="cutlayer-crash-", suffix=".txt", delete=False
        ) as file:
            file.write(text)
    except OSError:
        return None
    return Path(file.name)
