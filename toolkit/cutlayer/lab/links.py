"""The links of the devices in a lab trial: named profiles with typical values, of no particular place, or files."""

import math
from collections.abc import Sequence
from pathlib import Path

from cutlayer_core.errors import UserError
from cutlayer_core.record.link import Link
from cutlayer_core.trial import toml

__all__ = ["LINKS", "SERVER", "read_links"]

LINKS = {
    "wifi-good": Link(up_mbit_s=40, down_mbit_s=40, delay_ms=1.5, jitter_ms=1),
    "wifi-bad": Link(up_mbit_s=5, down_mbit_s=8, delay_ms=10, jitter_ms=20, stall_share=0.05, stall_ms=400),
    "wifi-power-save": Link(up_mbit_s=20, down_mbit_s=20, delay_ms=2, jitter_ms=2, beacon_ms=102.4),
    "lte": Link(up_mbit_s=8, down_mbit_s=30, half_duplex=False, delay_ms=25, jitter_ms=10, stall_share=0.01),
}
"""Named links."""
SERVER = "server"
"""The name by which the server's link is chosen, unless a device has this name."""


def read_links(choices: Sequence[str], devices: Sequence[str]) -> dict[str, Link]:
    """The link of each device, and of the server if it has one.

    Args:
        choices: each is NAME or FILE.toml for all devices, or DEVICE=NAME or DEVICE=FILE.toml for one; the last one
            counts. `SERVER` stands for the server, which otherwise is right at the broker.
        devices: names of all devices.

    Raises:
        UserError: an unknown device, a link that is neither a known name nor a file, or a file with a mistake.
    """
    found: dict[str, Link] = {}
    for choice in choices:
        device, _, name = choice.rpartition("=")
        if device and device not in (*devices, SERVER):
            raise UserError(f"--link {choice}: found the device {device!r}, allowed: {', '.join(devices)}, {SERVER}")
        link = _read_link(name)
        found |= dict.fromkeys([device] if device else devices, link)
    return found


def _read_link(name: str) -> Link:
    if name in LINKS:
        return LINKS[name]
    if not Path(name).is_file():
        raise UserError(f"--link: found {name!r}, allowed: {', '.join(LINKS)}, or a TOML file")
    link = toml.read(Path(name), Link)
    numbers = [getattr(link, key) for key in link.__struct_fields__ if isinstance(getattr(link, key), float)]
    numbers += [number for outage in link.outages_s for number in outage]
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise UserError(f"{name}: found a number that is infinite or below 0, allowed: others")
    return link
