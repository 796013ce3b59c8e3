"""What only the user knows of the meters at a board: the file of ``--meters``."""

import math
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec

from cutlayer_core.errors import UserError
from cutlayer_core.trial import toml

__all__ = ["Plug", "Settings", "read_settings"]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keys that are not named here are an error."""


class Tasmota(_Table, frozen=True, tag="tasmota", tag_field="id"):
    """``tele/<topic>/SENSOR`` at a broker, host or host:port."""

    broker: str
    topic: str


class Shelly(_Table, frozen=True, tag="shelly", tag_field="id"):
    """Over HTTP; the generation decides about units."""

    host: str
    generation: Literal[1, 2] = 2


class Zigbee2Mqtt(_Table, frozen=True, tag="zigbee2mqtt", tag_field="id"):
    """``zigbee2mqtt/<name>`` at a broker, host or host:port."""

    broker: str
    name: str


Plug: TypeAlias = Tasmota | Shelly | Zigbee2Mqtt


class Settings(_Table, frozen=True):
    """The whole file."""

    shunt_ohm: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """What is printed on the shunt of an INA219 or INA226 breakout (R100 is 0.1); without it their readings are not trusted."""
    pmic_correction: Literal["", "rpi5-jfikar-2024"] = ""
    """Take a Raspberry Pi 5's rails for its input by somebody's fit: an estimate."""
    plug: Plug | None = None
    board: str = ""
    """Whose coefficients an estimate takes; default: the board that it runs on."""


def read_settings(path: Path | None) -> Settings:
    """Read the file, or the defaults without one. Raises `UserError` naming the key."""
    if path is None:
        return Settings()
    settings = toml.read(path, Settings)
    if settings.shunt_ohm is not None and not math.isfinite(settings.shunt_ohm):
        raise UserError(f"{path}: shunt_ohm: found {settings.shunt_ohm}, allowed: a finite number")
    return settings
