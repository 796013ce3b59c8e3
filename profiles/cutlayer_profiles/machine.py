"""What kernel and firmware tell about a machine at one moment: processor, memory, network, radio, heat."""

import hmac
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from cutlayer_core.record.usage import Wifi
from cutlayer_profiles.meters import Root

__all__ = [
    "Machine",
    "Traffic",
    "machine_name",
    "parse_busy_s",
    "parse_iw_link",
    "parse_iw_station",
    "parse_net_dev",
    "parse_peak_bytes",
    "parse_pss_bytes",
    "parse_residency_s",
    "parse_throttled",
    "read_machine",
    "read_pss_bytes",
    "wifi_since",
]

_T = TypeVar("_T")
_TICKS_S = os.sysconf("SC_CLK_TCK")
_RESIDENCY_TICK_S = 0.01
_THROTTLED = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
_DISCONNECTED_C = -200.0


class Traffic(NamedTuple):
    """The traffic of one or several interfaces since the machine was started."""

    sent_bytes: int
    received_bytes: int
    sent_packets: int
    received_packets: int


class Machine(NamedTuple):
    """A machine at one moment; counters run since the machine, or the process, was started.

    Attributes:
        at_s: on the monotonic clock.
        cpu_s: core seconds of this process.
        busy_s: core seconds of the machine.
        rss_peak_bytes: the most memory that this process had.
        traffic: over all interfaces that are hardware.
        residency_s: seconds by clock in MHz, over all cores.
        temperature_c: the hottest zone.
        throttled: what holds the processor back now.
        throttled_ever: what has held it back since the firmware was started.
        wifi: of the first wireless interface; its retries since that was set up.
    """

    at_s: float
    cpu_s: float
    busy_s: float | None
    rss_peak_bytes: int | None
    traffic: Traffic | None
    residency_s: dict[float, float]
    temperature_c: float | None
    throttled: frozenset[str]
    throttled_ever: frozenset[str]
    wifi: Wifi | None


def parse_busy_s(text: str) -> float:
    """Core seconds by ``/proc/stat``: user, nice, system, irq, softirq and steal of all cores. Raises `ValueError`."""
    words = text.split("\n", 1)[0].split()
    if len(words) < 8 or words[0] != "cpu":
        raise ValueError("no line 'cpu'")
    user, nice, system, _, _, irq, softirq, *rest = (int(word) for word in words[1:])
    return (user + nice + system + irq + softirq + (rest[0] if rest else 0)) / _TICKS_S


def parse_net_dev(text: str) -> dict[str, Traffic]:
    """The traffic in ``/proc/net/dev``, by interface."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, counts = line.partition(":")
        words = counts.split()
        found[name.strip()] = Traffic(int(words[8]), int(words[0]), int(words[9]), int(words[1]))
    return found


def parse_peak_bytes(text: str) -> int:
    """The most memory that this program had, in ``/proc/self/status``; rusage also counts the program that started it.

    Raises `ValueError`.
    """
    match = re.search(r"VmHWM:\s*(\d+) kB", text)
    if match is None:
        raise ValueError("no line 'VmHWM'")
    return int(match[1]) * 1024


def parse_pss_bytes(text: str) -> int:
    """The memory in ``/proc/self/smaps_rollup``, with a share of pages that others use too. Raises `ValueError`."""
    match = re.search(r"^Pss:\s*(\d+) kB", text, re.MULTILINE)
    if match is None:
        raise ValueError("no line 'Pss'")
    return int(match[1]) * 1024


def read_pss_bytes() -> int | None:
    """The memory of this process now, with its share of shared pages; None where the kernel does not tell."""
    return _try(lambda: parse_pss_bytes(Path("/proc/self/smaps_rollup").read_text()))


def parse_residency_s(text: str) -> dict[float, float]:
    """Seconds by MHz, from ``cpufreq/stats/time_in_state``, which is in kHz and units of 10 ms."""
    pairs = (line.split() for line in text.splitlines() if line.strip())
    return {int(khz) / 1e3: int(ticks) * _RESIDENCY_TICK_S for khz, ticks in pairs}


def parse_throttled(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """What holds a Raspberry Pi back now, and what has since its start, by ``vcgencmd get_throttled``.

    Raises `ValueError`.
    """
    match = re.fullmatch(r"throttled=0x([0-9a-fA-F]+)", text.strip())
    if match is None:
        raise ValueError(f"{text.strip()[:80]!r} is no answer to get_throttled")
    bits = int(match[1], 16)
    now = frozenset(name for place, name in enumerate(_THROTTLED) if bits >> place & 1)
    return now, frozenset(name for place, name in enumerate(_THROTTLED) if bits >> 16 + place & 1)


def parse_iw_link(text: str, secret: str = "") -> Wifi:
    """The link by ``iw dev IFACE link``; the network's name leaves only as a hash with a secret of this machine."""

    def find(pattern: str) -> float | None:
        match = re.search(pattern, text)
        return float(match[1]) if match else None

    name = re.search(r"^Connected to (\S+).*?^\s*SSID: (.*?)$", text, re.MULTILINE | re.DOTALL)
    return Wifi(
        signal_dbm=find(r"signal: (-?\d+(?:\.\d+)?) dBm"),
        sent_mbit_s=find(r"tx bitrate: ([0-9.]+) MBit/s"),
        received_mbit_s=find(r"rx bitrate: ([0-9.]+) MBit/s"),
        network=hmac.new(secret.encode(), "\n".join(name.groups()).encode(), "sha256").hexdigest()[:12] if name else "",
    )


def parse_iw_station(text: str) -> int | None:
    """``tx retries`` in ``iw dev IFACE station dump``; None if the driver does not count them."""
    match = re.search(r"tx retries:\s*(\d+)", text)
    return int(match[1]) if match else None


def read_machine(root: Root) -> Machine:
    """Read the machine now. Whatever cannot be read is None, or empty."""
    throttled, throttled_ever = _throttled(root)
    return Machine(
        at_s=time.monotonic(),
        cpu_s=time.process_time(),
        busy_s=_try(lambda: parse_busy_s(root.read("proc/stat"))),
        rss_peak_bytes=_try(lambda: parse_peak_bytes(Path("/proc/self/status").read_text())),
        traffic=_try(lambda: _traffic(root)),
        residency_s=_residency(root),
        temperature_c=_temperature(root),
        throttled=throttled,
        throttled_ever=throttled_ever,
        wifi=_wifi(root),
    )


def _try(read: Callable[[], _T]) -> _T | None:
    """The reading; None where the machine does not tell, or tells something unexpected."""
    try:
        return read()
    except (OSError, ValueError, IndexError, TypeError):
        return None


def _residency(root: Root) -> dict[float, float]:
    whole: Counter[float] = Counter()
    for name in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/stats/time_in_state"):
        whole.update(_try(partial(_parsed_residency, root, name)) or {})
    return dict(whole)


def _parsed_residency(root: Root, name: str) -> dict[float, float]:
    return parse_residency_s(root.read(name))


def _temperature(root: Root) -> float | None:
    names = root.glob("sys/class/thermal/thermal_zone*/temp")
    zones = [zone / 1e3 for name in names if (zone := _try(partial(root.number, name))) is not None]
    return max((zone for zone in zones if zone > _DISCONNECTED_C), default=None)


def _traffic(root: Root) -> Traffic | None:
    """The traffic of hardware interfaces: what goes through a tunnel or a bridge goes through one of these, too."""
    counts = parse_net_dev(root.read("proc/net/dev"))
    own = [each for name, each in counts.items() if root.exists(f"sys/class/net/{name}/device")]
    return Traffic(*(sum(column) for column in zip(*own, strict=True))) if own else None


def _throttled(root: Root) -> tuple[frozenset[str], frozenset[str]]:
    """What holds the processor back now, and what has since the start."""
    nothing: tuple[frozenset[str], frozenset[str]] = frozenset(), frozenset()
    if not root.exists("dev/vcio") and not root.exists("dev/vcio_gencmd") and not root.replaced:
        return nothing
    return _try(lambda: parse_throttled(root.run("vcgencmd", "get_throttled"))) or nothing


def _wifi(root: Root) -> Wifi | None:
    """The link of the first wireless interface, by ``iw``."""
    interfaces = [name.split("/")[3] for name in root.glob("sys/class/net/*/wireless")]
    if not interfaces:
        return None
    secret = _try(lambda: root.read("proc/sys/kernel/random/boot_id")) or ""
    link = _try(lambda: parse_iw_link(root.run("iw", "dev", interfaces[0], "link"), secret)) or Wifi()
    retries = _try(lambda: parse_iw_station(root.run("iw", "dev", interfaces[0], "station", "dump")))
    saves = _try(lambda: root.run("iw", "dev", interfaces[0], "get", "power_save"))
    power_save = None if saves is None else saves.strip().endswith("on")
    return msgspec.structs.replace(link, retries=retries, power_save=power_save)


def wifi_since(before: Wifi | None, after: Wifi | None) -> Wifi | None:
    """As ``after``, with the retries since ``before``."""
    if after is None or after.retries is None or before is None or before.retries is None:
        return after
    passed = after.retries - before.retries
    return msgspec.structs.replace(after, retries=passed if passed >= 0 else after.retries)  # it was set up anew


def machine_name(root: Root) -> str:
    """A board's model as its device tree says; elsewhere processor and system."""
    try:
        return root.read("proc/device-tree/model")
    except OSError:
        return f"{platform.machine()}, {platform.system()}"
