"""Child processes that never outlive us: shielded from the terminal's Ctrl-C, stopped in order, killed if need be."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["start", "stop"]

_PR_SET_PDEATHSIG = 1


def start(command: Sequence[str], log: Path | None = None) -> "subprocess.Popen[bytes]":
    """Start a command; its output goes to ``log``, or if there is none, to our own output."""
    output = log.open("ab") if log is not None else None
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            preexec_fn=_detach,  # noqa: PLW1509 (who calls has no threads yet)
        )
    finally:
        if output is not None:
            output.close()


def stop(processes: Sequence["subprocess.Popen[bytes]"], grace_s: float = 5.0) -> None:
    """Ask each process to end, in order, and kill those that have not ended after ``grace_s``."""
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


def _detach() -> None:
    """In the child: leave the terminal's Ctrl-C to our parent; get SIGTERM from Linux when it dies, even by SIGKILL."""
    os.setpgrp()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
