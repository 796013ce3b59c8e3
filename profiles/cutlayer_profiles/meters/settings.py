"""What only the user knows about a board's meters: the file of ``--meters``."""

import math
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec

from cutlayer_core.errors import UserError
from cutlayer_core.trial import toml

__all__ = ["Plug", "Settings", "read_settings"]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table in which unknown keys are an error."""


class Tasmota(_Table, frozen=True, tag="tasmota", tag_field="id"):
    """A Tasmota plug: ``tele/<topic>/SENSOR`` at a broker, host or host:port."""

    broker: str
    topic: str


class Shelly(_Table, frozen=True, tag="shelly", tag_field="id"):
    """A Shelly plug, over HTTP; its units depend on the generation."""

    host: str
    generation: Literal[1, 2] = 2


class Zigbee2Mqtt(_Table, frozen=True, tag="zigbee2mqtt", tag_field="id"):
    """A Zigbee plug: ``zigbee2mqtt/<name>`` at a broker, host or host:port."""

    broker: str
    name: str


Plug: TypeAlias = Tasmota | Shelly | Zigbee2Mqtt


class Settings(_Table, frozen=True):
    """The whole file."""

    shunt_ohm: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """What is printed on the shunt of an INA219 or INA226 breakout (R100 is 0.1); without it their readings are not trusted."""
    pmic_correction: Literal["", "rpi5-jfikar-2024"] = ""
    """Estimate a Raspberry Pi 5's input from its rails, by the fit of this name."""
    plug: Plug | None = None
    board: str = ""
    """The board whose coefficients an estimate uses; default: the board that it runs on."""


def read_settings(path: Path | None) -> Settings:
    """Read the file, or the defaults without one. Raises `UserError` naming the key."""
    if path is None:
        return Settings()
    settings = toml.read(path, Settings)
    if settings.shunt_ohm is not None and not math.isfinite(settings.shunt_ohm):
        raise UserError(f"{path}: shunt_ohm: found {settings.shunt_ohm}, allowed: a finite number")
    return settings
