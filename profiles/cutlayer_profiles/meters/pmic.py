"""Raspberry Pi 5: the rails that its power management chip measures.

A partial meter: it does not see what is fed from 5 V directly, such as USB devices, a fan or NVMe, nor what the
regulators lose. So the scope of its joules is ``pmic_rails``, never the whole board.
"""

import fcntl
import re
import struct
from typing import NamedTuple

from cutlayer_profiles.meters.base import Accuracy, Finding, Meter
from cutlayer_profiles.meters.root import Root
from cutlayer_profiles.meters.settings import Settings

__all__ = ["Rails", "parse_pmic", "probe"]

_LINE = re.compile(r"^\s*(\S+?)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*$", re.MULTILINE)
_COMMAND = "pmic_read_adc"
_BUFFER = struct.Struct("<6I")
_BUFFER_BYTES, _TEXT_BYTES, _GET_GENCMD_RESULT = 4124, 4096, 0x00030080
_IOCTL = 0xC0086400 if struct.calcsize("P") == 8 else 0xC0046400  # _IOWR(100, 0, char *)
_NODES = ("dev/vcio_gencmd", "dev/vcio")
_RULE = 'KERNEL=="vcio*", GROUP="video", MODE="0660"'
_MODELS = ("Raspberry Pi 5", "Compute Module 5")
CORRECTIONS = {"rpi5-jfikar-2024": (1.1451, 0.5879)}
"""Watts at the input as a x + b of the rails' sum: https://github.com/jfikar/RPi5-power, one board beside a USB-C meter."""


class Rails(NamedTuple):
    """Watts of each rail that has a current and a voltage, and the names of rails that have only one of them."""

    power_w: dict[str, float]
    unpaired: list[str]

    @property
    def sum_w(self) -> float:
        """Watts of all rails that have both."""
        return sum(self.power_w.values())


def parse_pmic(text: str) -> Rails:
    """Parse the output of ``vcgencmd pmic_read_adc``. Its indices do not match, so rails are paired by name.

    Raises:
        ValueError: it has no such lines; the text quotes what it says instead.
    """
    found: dict[str, dict[str, float]] = {}
    for name, unit, value in _LINE.findall(text):
        found.setdefault(name, {})[unit] = float(value)
    power = {name: both["A"] * both["V"] for name, both in found.items() if len(both) == 2}
    if not power:
        raise ValueError(f"no rails in {text.strip()[:80]!r}")
    return Rails(power, sorted(found.keys() - power.keys()))


class _Pmic(Meter):
    def __init__(self, root: Root, correction: str) -> None:
        self._factor, self._offset = CORRECTIONS.get(correction, (1.0, 0.0))
        corrected = correction in CORRECTIONS
        super().__init__(
            root,
            f"Raspberry Pi 5 PMIC{f', corrected by {correction}' if corrected else ''}",
            "estimated_calibrated" if corrected else "measured",
            "dc_input" if corrected else "pmic_rails",
            Accuracy(gain=0.1),  # nobody has published one; the two fits of the correction differ by 3 %
        )

    def read(self) -> float:
        return self._factor * parse_pmic(_ask(self._root, _COMMAND)).sum_w + self._offset


def _ask(root: Root, command: str) -> str:
    """The firmware's answer, without starting a process for each reading where that is allowed. Raises `OSError`."""
    if root.replaced:
        return root.run("vcgencmd", command)
    for node in _NODES:
        if root.exists(node):
            return _ioctl(root, node, command)
    return root.run("vcgencmd", command)


def _ioctl(root: Root, node: str, command: str) -> str:
    """Ask as vcgencmd of raspberrypi/utils does."""
    buffer = bytearray(_BUFFER_BYTES)
    _BUFFER.pack_into(buffer, 0, _BUFFER_BYTES, 0, _GET_GENCMD_RESULT, _TEXT_BYTES, 0, 0)
    buffer[_BUFFER.size : _BUFFER.size + len(command)] = command.encode()
    with (root.path / node).open("rb", buffering=0) as device:
        fcntl.ioctl(device, _IOCTL, buffer, True)
    text = bytes(buffer[_BUFFER.size :]).split(b"\0", 1)[0].decode("utf-8", "replace")
    if _BUFFER.unpack_from(buffer)[5]:
        raise OSError(f"vcio: {text or 'the firmware refused'}")
    return text


def _model(root: Root) -> str:
    """The board's model; empty where the machine has no such file."""
    try:
        return root.read("proc/device-tree/model")
    except OSError:
        return ""


def probe(root: Root, settings: Settings) -> list[Finding]:
    """Whether this is a Raspberry Pi 5, and its firmware may be asked."""
    name = "Raspberry Pi 5 PMIC"
    model = _model(root)
    if model and not any(each in model for each in _MODELS):
        return [Finding(name, "absent", f"this is a {model}, which has none")]
    try:
        rails = parse_pmic(_ask(root, _COMMAND))
    except PermissionError as error:
        mend = f"add the user to the group video, and put {_RULE} into /etc/udev/rules.d/99-cutlayer-vcio.rules"
        return [Finding(name, "denied", f"{error.filename} may not be opened", mend)]
    except FileNotFoundError:
        mend = "in a container, pass the device /dev/vcio to it" if model else ""
        return [Finding(name, "unfit" if model else "absent", "neither /dev/vcio nor vcgencmd is there", mend)]
    except (OSError, ValueError) as error:
        return [Finding(name, "unfit" if model else "absent", str(error))]
    meter = _Pmic(root, settings.pmic_correction)
    detail = f"{len(rails.power_w)} rails, {rails.sum_w:.2f} W; without USB, fan, NVMe and HATs"
    if rails.unpaired:
        detail += f"; half known: {', '.join(rails.unpaired)}"
    return [Finding(name, "found", detail, meter=meter)]
