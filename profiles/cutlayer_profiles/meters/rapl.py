"""x86: the processor's own energy counters (RAPL), through powercap.

https://docs.kernel.org/power/powercap/powercap.html. Packages and the memory beside them are added up; cores are part
of a package already. The rest of the computer is not seen, so the scope is ``cpu_package``.
"""

from cutlayer_profiles.meters.base import Accuracy, Finding, Meter
from cutlayer_profiles.meters.root import Root
from cutlayer_profiles.meters.settings import Settings

__all__ = ["Counter", "probe"]

_ZONES = ("sys/class/powercap/intel-rapl:*/name",)
_MEND = "sudo chgrp $(id -gn) and sudo chmod g+r on /sys/class/powercap/intel-rapl:*/energy_uj, again after each start"


class Counter:
    """Joules of one zone since this was created; wraps of the counter are undone if it is read at least once per wrap.

    Raises:
        OSError: it may not be read.
    """

    def __init__(self, root: Root, folder: str) -> None:
        self._root, self._name = root, f"{folder}/energy_uj"
        self._range = root.number(f"{folder}/max_energy_range_uj")
        self._last = root.number(self._name)
        self._joules = 0.0

    def read(self) -> float:
        """Joules so far. Raises `OSError`."""
        now = self._root.number(self._name)
        passed = now - self._last
        self._joules += (passed + self._range if passed < 0 else passed) / 1e6
        self._last = now
        return self._joules


class _Rapl(Meter):
    def __init__(self, root: Root, zones: dict[str, str]) -> None:
        self._counters = [Counter(root, folder) for folder in zones.values()]
        accuracy = Accuracy(gain=0.05, step=1e-3, window_s=0.001)
        super().__init__(root, f"RAPL {' + '.join(zones)}", "measured", "cpu_package", accuracy, counts=True)

    def read(self) -> float:
        return sum(counter.read() for counter in self._counters)


def probe(root: Root, settings: Settings) -> list[Finding]:
    """Every package, and memory where it is counted separately."""
    names = {name.rpartition("/")[0]: root.read(name) for pattern in _ZONES for name in root.glob(pattern)}
    zones = {
        f"{label}{folder.removeprefix('sys/class/powercap/intel-rapl')}": folder
        for folder, label in names.items()
        if label.startswith("package-") or label == "dram"
    }
    if not zones:
        return [Finding("RAPL", "absent", "no /sys/class/powercap/intel-rapl:*; virtual machines have none")]
    try:
        meter = _Rapl(root, zones)
    except PermissionError as error:
        return [Finding("RAPL", "denied", f"{error.filename} is for root only", _MEND)]
    except (OSError, ValueError) as error:
        return [Finding("RAPL", "unfit", str(error))]
    return [Finding("RAPL", "found", f"{', '.join(zones)}; the processor alone", meter=meter)]
