"""The topics of a trial: ``cutlayer/1/<trial>/<device>/{up,down,state}``, ``cutlayer/1/<trial>/all/{control,gradient}``."""

import re
from typing import NamedTuple

from cutlayer_core.errors import UserError

__all__ = [
    "SERVER",
    "UPDATES",
    "Address",
    "check_name",
    "control",
    "down",
    "every_down",
    "every_state",
    "every_up",
    "gradient",
    "parse",
    "state",
    "up",
]

_ROOT = "cutlayer/1"
SERVER = "all"
"""In place of a device's name: the server, which speaks to all. No device can have this name."""
UPDATES = "updates"
"""In place of a trial's name: updates of devices. No trial can have this name."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Address(NamedTuple):
    """What a topic says: which device it belongs to, and which of that device's topics it is."""

    device: str
    leaf: str


def check_name(name: str, what: str) -> str:
    """Return the name, if it can be part of a topic and of a path. Raises `UserError` otherwise."""
    if not _NAME.fullmatch(name) or name == SERVER:
        raise UserError(f"{what} {name!r}: use 1 to 64 letters, digits, '-', '_' or '.', and not 'all'")
    return name


def up(trial: str, device: str) -> str:
    """Device to server."""
    return f"{_ROOT}/{trial}/{device}/up"


def down(trial: str, device: str) -> str:
    """Server to device."""
    return f"{_ROOT}/{trial}/{device}/down"


def state(trial: str, device: str) -> str:
    """Retained birth and last will of a device."""
    return f"{_ROOT}/{trial}/{device}/state"


def control(trial: str) -> str:
    """Retained birth and last will of the server."""
    return f"{_ROOT}/{trial}/{SERVER}/control"


def gradient(trial: str) -> str:
    """Server to all devices: rows of cut gradients that they share."""
    return f"{_ROOT}/{trial}/{SERVER}/gradient"


def every_up(trial: str) -> str:
    """Filter: what all devices send."""
    return f"{_ROOT}/{trial}/+/up"


def every_down(trial: str) -> str:
    """Filter: what the server sends to all devices."""
    return f"{_ROOT}/{trial}/+/down"


def every_state(trial: str) -> str:
    """Filter: the state of all devices."""
    return f"{_ROOT}/{trial}/+/state"


def parse(topic: str) -> Address:
    """The address of a topic that one of the filters above matched."""
    device, leaf = topic.rsplit("/", 2)[1:]
    return Address(device, leaf)
