"""Jetson: the INA3221 beside the module, in both dialects of its driver, and Thor's INA238.

L4T r28 to r32 give ``iio:device*/rail_name_N`` with mV, mA and mW, counted from 0; r34 and later give ``hwmon*/inN_label`` with mV
and mA and no power, counted from 1, where ``in4`` to ``in6`` are shunt voltages and ``in7`` is a sum (https://docs.kernel.org/hwmon/ina3221.html).
Which rail is the whole module differs by board; adding up a total and its parts counts energy twice.
"""

from collections.abc import Callable

from cutlayer_core.record.energy import Scope
from cutlayer_profiles.meters.base import Accuracy, Finding, Meter
from cutlayer_profiles.meters.root import Root
from cutlayer_profiles.meters.settings import Settings

__all__ = ["probe", "rails_of"]

TOTALS: dict[str, Scope] = {"POM_5V_IN": "module_input", "VDD_IN": "module_input", "VIN": "module_input"}
"""Rails that feed the whole module, and so all other rails."""
_OLD = "sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*"
_NEW = "sys/class/hwmon/hwmon*/in*_label"
_SKIPPED = ("NC", "sum of shunt voltages", "")
_CHANNELS = 3
_BUS_STEP_V, _CURRENT_STEP_A = 0.008, 0.008

Rail = Callable[[], float]
"""Watts of a rail, when called."""


def rails_of(root: Root) -> dict[str, Rail]:
    """Every rail that is connected, by its label. Raises `OSError` if one may not be read."""
    rails: dict[str, Rail] = {}
    for name in root.glob(_OLD):
        _add_old(root, name, rails)
    for name in root.glob(_NEW):
        _add_new(root, name, rails)
    for name in root.glob("sys/class/hwmon/hwmon*/name"):
        if root.read(name) == "ina238" and _is_thor(root):
            _add_238(root, name.rpartition("/")[0], rails)
    return rails


def _is_thor(root: Root) -> bool:
    """Whether this is a Thor: on other boards an INA238 is the user's own, with an unknown shunt."""
    return root.exists("proc/device-tree/model") and "Thor" in root.read("proc/device-tree/model")


def _add_old(root: Root, name: str, rails: dict[str, Rail]) -> None:
    folder, _, number = name.rpartition("/rail_name_")
    label = root.read(name)
    if label not in _SKIPPED:
        rails[label] = lambda: (
            root.number(f"{folder}/in_voltage{number}_input")
            * (root.number(f"{folder}/in_current{number}_input") / 1e6)
        )


def _add_new(root: Root, name: str, rails: dict[str, Rail]) -> None:
    folder, _, rest = name.rpartition("/in")
    number, label = int(rest.removesuffix("_label")), root.read(name)
    if root.read(f"{folder}/name") == "ina3221" and number <= _CHANNELS and label not in _SKIPPED:
        rails[label] = lambda: (
            root.number(f"{folder}/in{number}_input") * (root.number(f"{folder}/curr{number}_input") / 1e6)
        )


def _unique(label: str, rails: dict[str, Rail]) -> str:
    """The label, made unique: two chips may have rails of the same name."""
    return label if label not in rails else f"{label} ({len(rails)})"


def _add_238(root: Root, folder: str, rails: dict[str, Rail]) -> None:
    """One channel, with its power in uW."""
    rails["VIN"] = lambda: root.number(f"{folder}/power1_input") / 1e6


class _Jetson(Meter):
    def __init__(self, root: Root, name: str, scope: Scope, rails: list[Rail]) -> None:
        self._rails = rails
        step = len(rails) * 5.0 * _CURRENT_STEP_A
        super().__init__(root, name, "measured", scope, Accuracy(gain=0.02, step=step, window_s=0.0066))

    def read(self) -> float:
        return sum(rail() for rail in self._rails)


def probe(root: Root, settings: Settings) -> list[Finding]:
    """The rail that feeds the module; where there is none, the sum of the rails that are its parts."""
    try:
        rails = rails_of(root)
        whole = next((label for label in TOTALS if label in rails), None)
        chosen = {whole: rails[whole]} if whole is not None else rails
        power = {label: rail() for label, rail in chosen.items()}
    except PermissionError as error:
        return [
            Finding("Jetson INA3221", "denied", f"{error.filename} may not be read", "run as root, or in group i2c")
        ]
    except (OSError, ValueError) as error:
        mend = "a rail that is switched off cannot be read: run while it is on"
        return [Finding("Jetson INA3221", "unfit", str(error), mend)]
    if not rails:
        return [Finding("Jetson INA3221", "absent", "no rail of that driver")]
    shown = ", ".join(f"{label} {watts:.2f} W" for label, watts in power.items())
    if whole is not None:
        meter = _Jetson(root, f"Jetson {whole}", TOTALS[whole], [rails[whole]])
        return [Finding("Jetson INA3221", "found", f"{shown}: the module, without its carrier board", meter=meter)]
    meter = _Jetson(root, f"Jetson, sum of {', '.join(rails)}", "soc_rails", list(rails.values()))
    return [Finding("Jetson INA3221", "found", f"{shown}; their sum, which no rail has whole", meter=meter)]
