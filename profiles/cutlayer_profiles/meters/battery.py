"""A battery that is being discharged, as the kernel's ``power_supply`` class reports it.

https://docs.kernel.org/power/power_supply_class.html: uV, uA, uW. The sign of the current differs by driver. What a USB
source has promised (``ucsi-source-psy-*``) is not a measurement.
"""

from cutlayer_profiles.meters.base import Accuracy, Finding, Meter
from cutlayer_profiles.meters.root import Root
from cutlayer_profiles.meters.settings import Settings

__all__ = ["battery_w", "probe"]


def battery_w(root: Root, folder: str) -> float:
    """Watts out of a battery. Raises `OSError`, and `ValueError` while it is not being discharged."""
    status = root.read(f"{folder}/status")
    if status != "Discharging":
        raise ValueError(f"the battery is {status.lower()}: pull the charger")
    if root.exists(f"{folder}/power_now"):
        return abs(root.number(f"{folder}/power_now")) / 1e6
    return abs(root.number(f"{folder}/current_now") * root.number(f"{folder}/voltage_now")) / 1e12


class _Battery(Meter):
    def __init__(self, root: Root, folder: str) -> None:
        self._folder = folder
        name = f"battery {folder.rpartition('/')[2]}"
        super().__init__(root, name, "measured", "battery", Accuracy(gain=0.05, step=0.05), period_s=1.0)

    def read(self) -> float:
        return battery_w(self._root, self._folder)


def _is_of_a_device(root: Root, folder: str) -> bool:
    """Whether this is the battery of a peripheral, such as a mouse."""
    return root.exists(f"{folder}/scope") and root.read(f"{folder}/scope") == "Device"


def probe(root: Root, settings: Settings) -> list[Finding]:
    """Every battery, but no chargers."""
    found = []
    for name in root.glob("sys/class/power_supply/*/type"):
        folder = name.rpartition("/")[0]
        label = f"battery {folder.rpartition('/')[2]}"
        if root.read(name) != "Battery" or _is_of_a_device(root, folder):
            continue
        try:
            watts = battery_w(root, folder)
        except ValueError as error:
            found.append(Finding(label, "absent", str(error)))
        except OSError as error:
            found.append(Finding(label, "unfit", str(error)))
        else:
            found.append(Finding(label, "found", f"{watts:.2f} W", meter=_Battery(root, folder)))
    return found or [Finding("battery", "absent", "no battery in /sys/class/power_supply")]
