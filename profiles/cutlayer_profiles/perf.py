"""Cycles and instructions of this process, counted by the processor, where the kernel allows it.

perf_event_open(2): https://man7.org/linux/man-pages/man2/perf_event_open.2.html.
"""

import ctypes
import os
import platform
import struct
from typing import NamedTuple

__all__ = ["Counts", "PerfCounters"]

_CALLS = {"x86_64": 298, "aarch64": 241, "armv7l": 364}
_HARDWARE, _CYCLES, _INSTRUCTIONS = 0, 0, 1
_ATTRIBUTE = struct.Struct("<IIQQQQQ")
_ATTRIBUTE_BYTES = 128
_INHERIT_USER_ONLY = 1 << 1 | 1 << 5 | 1 << 6
"""Threads that start later are counted; the kernel and the hypervisor are not."""


class Counts(NamedTuple):
    """What was counted since the counters were opened."""

    cycles: int
    instructions: int


class PerfCounters:
    """Counts from its creation on, also in threads that are started later.

    Raises:
        OSError: the kernel has no such counters, as in most virtual machines, or /proc/sys/kernel/perf_event_paranoid forbids it.
    """

    def __init__(self) -> None:
        self._files = [_open(_CYCLES)]
        try:
            self._files.append(_open(_INSTRUCTIONS))
        except OSError:
            self.close()
            raise

    def read(self) -> Counts:
        """The counts so far. Raises `OSError`."""
        cycles, instructions = (struct.unpack("<Q", os.read(file, 8))[0] for file in self._files)
        return Counts(cycles, instructions)

    def close(self) -> None:
        """Stop counting."""
        for file in self._files:
            os.close(file)
        self._files = []


def _open(event: int, kind: int = _HARDWARE) -> int:
    number = _CALLS.get(platform.machine())
    if number is None:
        raise OSError(f"perf_event_open is not known on {platform.machine()}")
    attribute = bytearray(_ATTRIBUTE_BYTES)
    _ATTRIBUTE.pack_into(attribute, 0, kind, _ATTRIBUTE_BYTES, event, 0, 0, 0, _INHERIT_USER_ONLY)
    library = ctypes.CDLL(None, use_errno=True)
    buffer = (ctypes.c_char * _ATTRIBUTE_BYTES).from_buffer(attribute)
    file = int(library.syscall(number, ctypes.byref(buffer), 0, -1, -1, 0))
    if file < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return file
