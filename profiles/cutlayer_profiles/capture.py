"""Copies what a board shows, without its owner's private data, so that its meters can be tested elsewhere."""

import contextlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cutlayer_core.errors import UserError
from cutlayer_profiles.meters import Root

__all__ = ["capture", "scrubbed"]

FILES = (
    "proc/device-tree/model",
    "proc/stat",
    "proc/net/dev",
    "proc/net/wireless",
    "etc/nv_tegra_release",
    "sys/class/hwmon/hwmon*/name",
    "sys/class/hwmon/hwmon*/*_input",
    "sys/class/hwmon/hwmon*/*_label",
    "sys/class/hwmon/hwmon*/*_alarm",
    "sys/class/hwmon/hwmon*/shunt*_resistor",
    "sys/class/hwmon/hwmon*/update_interval",
    "sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*",
    "sys/bus/i2c/drivers/ina3221x/*/iio:device*/in_*_input",
    "sys/class/powercap/intel-rapl:*/name",
    "sys/class/powercap/intel-rapl:*/energy_uj",
    "sys/class/powercap/intel-rapl:*/max_energy_range_uj",
    "sys/class/power_supply/*/type",
    "sys/class/power_supply/*/status",
    "sys/class/power_supply/*/*_now",
    "sys/class/thermal/thermal_zone*/type",
    "sys/class/thermal/thermal_zone*/temp",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/stats/time_in_state",
)
COMMANDS = (
    ("vcgencmd", "pmic_read_adc"),
    ("vcgencmd", "get_throttled"),
    ("vcgencmd", "version"),
    ("iw", "dev", "wlan0", "link"),
    ("iw", "dev", "wlan0", "station", "dump"),
    ("iw", "dev", "wlan0", "get", "power_save"),
)
_SECRETS = (
    (re.compile(r"\b(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\b"), "00:00:00:00:00:00"),
    (re.compile(r"\benx[0-9a-fA-F]{12}\b"), "enx000000000000"),
    (re.compile(r"(?m)^(\s*SSID:).*$"), r"\1 scrubbed"),
    (re.compile(r"(?im)^(.*serial\w*\s*[:=]?).*$"), r"\1 scrubbed"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b"), "0.0.0.0"),  # noqa: S104 - an address that is nobody's
)


def scrubbed(text: str) -> str:
    """The text without network and hardware addresses, network names and serial numbers."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def capture(root: Root, folder: Path) -> int:
    """Write the copy, without what is missing or may not be read. Returns how many files it has.

    Raises:
        UserError: the folder is there already.
        OSError: it cannot be written.
    """
    if folder.exists():
        raise UserError(f"--capture: {folder} is there already: give a new folder")
    reads: dict[str, Callable[[], str]] = {
        name: partial(root.read, name) for pattern in FILES for name in root.glob(pattern)
    }
    reads |= {f"commands/{'_'.join(words)}": partial(root.run, *words) for words in COMMANDS}
    found: dict[str, str] = {}
    for name, read in reads.items():
        with contextlib.suppress(OSError):
            found[name] = read()
    for name, text in found.items():
        path = folder / scrubbed(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(scrubbed(text) + "\n")
    return len(found)
