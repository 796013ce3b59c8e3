"""INA219, 220, 226, 230, 231, 260 in the board's supply, through the kernel's ``ina2xx`` driver.

https://docs.kernel.org/hwmon/ina2xx.html: ``in0_input`` mV at the shunt, ``in1_input`` mV of the bus, ``curr1_input`` mA,
``power1_input`` uW, ``shunt_resistor`` uOhm. The driver assumes a shunt of 10 mOhm where hobby breakouts have 100:
readings are ten times too high until it is told which shunt is soldered there.
"""

from statistics import median
from typing import NamedTuple

from cutlayer_profiles.meters.base import Accuracy, Finding, Meter
from cutlayer_profiles.meters.root import Root
from cutlayer_profiles.meters.settings import Settings

__all__ = ["InaReading", "probe", "read_ina"]


class _Chip(NamedTuple):
    """From data sheets and driver: full scale of the shunt in mV (None: it is inside), step in W, and window in s."""

    full_scale_mv: float | None
    power_step_w: float
    window_s: float


_SMALL, _GOOD = _Chip(320.0, 0.02, 0.0005), _Chip(81.92, 0.025, 0.035)
CHIPS = {
    "ina219": _SMALL,
    "ina220": _SMALL,
    "ina226": _GOOD,
    "ina230": _GOOD,
    "ina231": _GOOD,
    "ina260": _Chip(None, 0.01, 0.035),
}
_CURRENT_STEP_A = 0.001
_CLIPS_AT = 0.99
_AGREE_WITHIN = 0.05
_LOOKS = 9


class InaReading(NamedTuple):
    """One reading of a chip: V, A, the W that it computes itself, V at the shunt, and ohms; None where it has none."""

    bus_v: float
    current_a: float
    power_w: float | None
    shunt_v: float | None
    shunt_ohm: float | None

    @property
    def product_w(self) -> float:
        """V x A, which is finer than the chip's own power in steps of 10 mW or more."""
        return self.bus_v * self.current_a

    def clipping(self, chip: str) -> str:
        """A text if the shunt's voltage is at the end of its scale; empty if not."""
        full = CHIPS[chip].full_scale_mv
        if full is None or self.shunt_v is None or abs(self.shunt_v) < _CLIPS_AT * full / 1e3:
            return ""
        limit = f" at {full / 1e3 / self.shunt_ohm:.2f} A" if self.shunt_ohm else ""
        return f"{1e3 * self.shunt_v:.1f} mV at the shunt is the end of its scale: it clips{limit}"


def read_ina(root: Root, folder: str) -> InaReading:
    """Read a chip once. Raises `OSError` and `ValueError` as `Root.number` does."""

    def optional(name: str, factor: float) -> float | None:
        return root.number(f"{folder}/{name}") * factor if root.exists(f"{folder}/{name}") else None

    return InaReading(
        bus_v=root.number(f"{folder}/in1_input") / 1e3,
        current_a=root.number(f"{folder}/curr1_input") / 1e3,
        power_w=optional("power1_input", 1e-6),
        shunt_v=optional("in0_input", 1e-3),
        shunt_ohm=optional("shunt_resistor", 1e-6),
    )


class _Ina(Meter):
    def __init__(self, root: Root, folder: str, chip: str, name: str) -> None:
        self._folder, self._chip = folder, chip
        step = 5.0 * _CURRENT_STEP_A
        accuracy = Accuracy(gain=0.015, step=step, window_s=CHIPS[chip].window_s)  # with a shunt of 1 %
        super().__init__(root, name, "measured", "dc_input", accuracy)

    def read(self) -> float:
        reading = read_ina(self._root, self._folder)
        if clipping := reading.clipping(self._chip):
            raise ValueError(f"{self.name}: {clipping}")
        return reading.product_w


def probe(root: Root, settings: Settings) -> list[Finding]:
    """Every chip that the driver has found, whatever its hwmon number is today."""
    found = []
    for name in root.glob("sys/class/hwmon/hwmon*/name"):
        folder = name.rpartition("/")[0]
        chip = root.read(name)
        if chip in CHIPS:
            found.append(_examine(root, folder, chip, settings))
    mend = "for one at I2C address 0x40 of a Raspberry Pi: dtoverlay=i2c-sensor,ina219 in config.txt"
    return found or [Finding("INA219/226/260", "absent", "no hwmon of that name", mend)]


def _examine(root: Root, folder: str, chip: str, settings: Settings) -> Finding:
    link = root.path / folder / "device"
    place = f" at {link.resolve().name}" if link.is_symlink() else ""
    name = f"{chip}{place}"
    try:
        reading = read_ina(root, folder)
    except PermissionError as error:
        return Finding(
            name, "denied", f"{error.filename} may not be read", "run as a user who may read /sys/class/hwmon"
        )
    except (OSError, ValueError) as error:
        return Finding(name, "unfit", str(error), "is the module ina2xx loaded, or does ina2xx-adc have the chip?")
    seen = f"{reading.bus_v:.2f} V, {reading.current_a:.3f} A"
    if CHIPS[chip].full_scale_mv is not None:
        set_to = reading.shunt_ohm
        if settings.shunt_ohm is None:
            mend = "say shunt_ohm in the file of --meters, as printed on the shunt: R100 is 0.1, R010 is 0.01"
            return Finding(name, "unfit", f"{seen}, with a shunt of {_ohm(set_to)} that nobody has confirmed", mend)
        if set_to is not None and abs(set_to - settings.shunt_ohm) > 0.01 * settings.shunt_ohm:
            mend = f"echo {1e6 * settings.shunt_ohm:.0f} | sudo tee /{folder}/shunt_resistor"
            return Finding(
                name, "unfit", f"{seen}: the driver takes {_ohm(set_to)}, you {_ohm(settings.shunt_ohm)}", mend
            )
    problem = reading.clipping(chip) or _contradiction(root, folder, chip)
    if problem:
        return Finding(name, "unfit", problem, "a smaller shunt, or the right shunt_ohm")
    return Finding(name, "found", seen, meter=_Ina(root, folder, chip, name))


def _contradiction(root: Root, folder: str, chip: str) -> str:
    """A text if the chip's own power is not V x A, by the medians of many readings: each file is another conversion."""
    readings = [read_ina(root, folder) for _ in range(_LOOKS)]
    told = [reading.power_w for reading in readings if reading.power_w is not None]
    if not told:
        return ""
    product, power = median(reading.product_w for reading in readings), median(told)
    if abs(power - product) <= _AGREE_WITHIN * abs(power) + CHIPS[chip].power_step_w:
        return ""
    return f"V x A is {product:.2f} W, the chip says {power:.2f} W"


def _ohm(value: float | None) -> str:
    return "unknown size" if value is None else f"{value:g} ohm"
