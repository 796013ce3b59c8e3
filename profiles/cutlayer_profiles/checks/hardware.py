"""The machine itself: which one it is, its cores, its memory, and the room on its disk."""

import contextlib
import os
import platform
import re
import shutil
from pathlib import Path

from cutlayer_profiles.checks.base import Check
from cutlayer_profiles.meters import Root

__all__ = ["check_cores", "check_disk", "check_memory", "check_system"]

_LITTLE_MEMORY_BYTES = 256e6
"""VGG11's client takes 116 MiB to train (``benchmarks/results/client_step.txt``)."""
_LITTLE_DISK_BYTES = 1e9


def check_system(root: Root) -> Check:
    """Board and SoC, operating system, architecture."""
    parts = [_board(root), _operating_system(root), platform.machine()]
    return Check("system", "ok", ", ".join(filter(None, parts)))


def check_cores() -> Check:
    """As many as this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("cores", "ok", str(usable))


def check_memory(root: Root) -> Check:
    """All of it, and what is free or can be freed."""
    try:
        text = root.read("proc/meminfo")
        whole, free = (
            int(re.findall(rf"^{key}:\s*(\d+) kB", text, re.MULTILINE)[0]) * 1024
            for key in ("MemTotal", "MemAvailable")
        )
    except (OSError, IndexError):
        return Check("memory", "ok", "this system does not tell")
    found = f"{whole / 1e9:.1f} GB, {free / 1e9:.1f} GB of it free"
    if free >= _LITTLE_MEMORY_BYTES:
        return Check("memory", "ok", found)
    return Check(
        "memory", "warning", found, "end what else runs; `cutlayer profile client` says what your client takes"
    )


def check_disk(folder: Path) -> Check:
    """Room where a run or a device's state would be written."""
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Check("disk", "warning", f"{found}, which may not be written", "go to a folder of yours")
    if free < _LITTLE_DISK_BYTES:
        return Check("disk", "warning", found, "make room: a run keeps whole models, a device its state")
    return Check("disk", "ok", found)


def _board(root: Root) -> str:
    """A board's model with its SoC, or the processor's name."""
    with contextlib.suppress(OSError):
        model = root.read("proc/device-tree/model")
        soc = ""
        with contextlib.suppress(OSError):  # from the board to its SoC: "raspberrypi,4-model-b\0brcm,bcm2711"
            soc = root.read("proc/device-tree/compatible").split("\0")[-1].split(",")[-1]
        return f"{model} ({soc})" if soc else model
    with contextlib.suppress(OSError):
        if match := re.search(r"^model name\s*: (.+)$", root.read("proc/cpuinfo"), re.MULTILINE):
            return match[1]
    return ""


def _operating_system(root: Root) -> str:
    with contextlib.suppress(OSError):
        if match := re.search(r'^PRETTY_NAME="?(.+?)"?$', root.read("etc/os-release"), re.MULTILINE):
            return match[1]
    return f"{platform.system()} {platform.release()}"
