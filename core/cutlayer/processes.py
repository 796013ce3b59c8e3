"""Child processes that never outlive us: started apart from the terminal's Ctrl-C, stopped in order, killed if they must."""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["start", "stop"]

_PR_SET_PDEATHSIG = 1


def start(command: Sequence[str], log: Path | None = None) -> "subprocess.Popen[bytes]":
    """Start a command; its output goes to ``log``, or to ours without one."""
    output = log.open("ab") if log is not None else None
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            # In its own process group, so that Ctrl-C reaches us alone and we end the children in order.
            process_group=0 if sys.version_info >= (3, 11) else None,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 (no threads yet)
        )
    finally:
        if output is not None:
            output.close()


def stop(processes: Sequence["subprocess.Popen[bytes]"], grace_s: float = 5.0) -> None:
    """Ask each to end, in order, and kill those that have not after ``grace_s``."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_parent() -> None:
    """Ask Linux for SIGTERM when our parent dies, even by SIGKILL."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
