"""Smart plugs: Tasmota, Shelly of both generations, Zigbee2MQTT. At the wall, so losses of the power supply count too.

Their steps are coarse for a single board, and many are wrong below 5 W, so they are for whole runs. Units differ even
within a maker: Tasmota and Zigbee2MQTT count kWh, Shelly's second generation Wh, its first watt-minutes.
"""

import http.client
import urllib.request
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec

from cutlayer_core.errors import CutlayerError
from cutlayer_profiles.meters.base import Accuracy, Finding, Meter
from cutlayer_profiles.meters.root import Root
from cutlayer_profiles.meters.settings import Plug, Settings, Shelly, Tasmota, Zigbee2Mqtt
from cutlayer_profiles.meters.subscription import Subscription

__all__ = ["PlugReading", "parse_shelly", "parse_tasmota", "parse_zigbee2mqtt", "probe"]

_T = TypeVar("_T")
_KWH_J, _WH_J, _WATT_MINUTE_J = 3.6e6, 3600.0, 60.0
_MOST_BYTES = 1 << 16
_BLIND_BELOW_W = 5.0
_TIMEOUT_S = 3.0


class PlugReading(NamedTuple):
    """Watts now, and the joules that the plug has counted in its life; None if it does not count."""

    power_w: float
    energy_j: float | None


class _TasmotaEnergy(msgspec.Struct, rename={"power": "Power", "total": "Total"}):
    power: float | list[float]
    total: float | list[float]


class _Tasmota(msgspec.Struct, rename={"energy": "ENERGY"}):
    energy: _TasmotaEnergy


class _Shelly1Meter(msgspec.Struct):
    power: float
    total: float
    is_valid: bool = True


class _Shelly1(msgspec.Struct):
    meters: list[_Shelly1Meter]


class _Shelly2Counter(msgspec.Struct):
    total: float


class _Shelly2(msgspec.Struct):
    apower: float
    aenergy: _Shelly2Counter


class _Zigbee(msgspec.Struct):
    power: float
    energy: float | None = None


def _decode(text: str | bytes, into: type[_T]) -> _T:
    """Decode a plug's JSON; keys that we do not need are ignored. Raises `ValueError`."""
    if len(text) > _MOST_BYTES:
        raise ValueError(f"{len(text)} bytes are no message of a plug")
    try:
        return msgspec.json.decode(text, type=into)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not what such a plug says: {error}") from error


def _sum(value: float | list[float]) -> float:
    """The sum over all sockets, if a plug has several."""
    return sum(value) if isinstance(value, list) else value


def parse_tasmota(text: str | bytes) -> PlugReading:
    """Parse ``tele/<topic>/SENSOR``. Raises `ValueError`."""
    energy = _decode(text, _Tasmota).energy
    return PlugReading(_sum(energy.power), _sum(energy.total) * _KWH_J)


def parse_shelly(text: str | bytes, generation: int) -> PlugReading:
    """Parse ``/rpc/Switch.GetStatus`` of the second generation, or ``/status`` of the first. Raises `ValueError`."""
    if generation == 2:
        status = _decode(text, _Shelly2)
        return PlugReading(status.apower, status.aenergy.total * _WH_J)
    meters = _decode(text, _Shelly1).meters
    if not meters or not meters[0].is_valid:
        raise ValueError("the plug says that its reading is not valid")
    return PlugReading(meters[0].power, meters[0].total * _WATT_MINUTE_J)


def parse_zigbee2mqtt(text: str | bytes) -> PlugReading:
    """Parse ``zigbee2mqtt/<name>``. Raises `ValueError`."""
    found = _decode(text, _Zigbee)
    return PlugReading(found.power, None if found.energy is None else found.energy * _KWH_J)


class _Plug(Meter):
    """Counts joules if the plug does; otherwise it measures watts."""

    def __init__(self, root: Root, way: "_Way") -> None:
        counts = way.ask().energy_j is not None
        self._ask, self._messages = way.ask, way.messages
        accuracy = Accuracy(gain=0.02, step=way.step_j if counts else 1.0, window_s=way.period_s)
        self._place = way.name
        # A plug's name may be its serial number, which must stay on this machine.
        super().__init__(
            root, f"{way.name.split()[0]} plug", "measured", "wall_ac", accuracy, way.period_s, counts=counts
        )

    @property
    def place(self) -> str:
        """See `Meter`; without the machine, since several may be on one plug."""
        return self._place

    @property
    def told_at_s(self) -> float | None:
        """See `Meter`."""
        return self._messages.told_at_s if self._messages else None

    def read(self) -> float:
        reading = self._ask()
        if not self.counts:
            return reading.power_w
        if reading.energy_j is None:
            raise ValueError(f"{self.name} did not say what it has counted")
        return reading.energy_j


class _Way(NamedTuple):
    """How to ask a plug, its step in J, how often it is worth asking, and its messages if it reports by itself."""

    name: str
    ask: Callable[[], PlugReading]
    step_j: float
    period_s: float
    messages: Subscription | None = None


def _way_to(plug: Plug) -> _Way:
    if isinstance(plug, Shelly):
        path = "/status" if plug.generation == 1 else "/rpc/Switch.GetStatus?id=0"
        address = f"http://{plug.host}{path}"
        step_j = _WATT_MINUTE_J if plug.generation == 1 else _WH_J / 1000
        return _Way(f"Shelly {plug.host}", lambda: parse_shelly(_get(address), plug.generation), step_j, 1.0)
    if isinstance(plug, Tasmota):
        messages = Subscription(plug.broker, f"tele/{plug.topic}/SENSOR")
        return _Way(f"Tasmota {plug.topic}", lambda: parse_tasmota(messages.newest()), _WH_J, 10.0, messages)
    assert isinstance(plug, Zigbee2Mqtt)
    messages = Subscription(plug.broker, f"zigbee2mqtt/{plug.name}")
    name, step_j = f"Zigbee2MQTT {plug.name}", 10 * _WH_J
    return _Way(name, lambda: parse_zigbee2mqtt(messages.newest()), step_j, 10.0, messages)


def _get(address: str) -> bytes:
    """Fetch an address. Raises `OSError`, and `ValueError` if the address is invalid."""
    try:
        return _get_or_raise(address)
    except http.client.HTTPException as error:
        raise OSError(f"{address} does not speak HTTP: {type(error).__name__}") from error


def _get_or_raise(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - http:// stands above
        content: bytes = answer.read(_MOST_BYTES + 1)
    return content


def probe(root: Root, settings: Settings) -> list[Finding]:
    """The plug that the settings name; there is no way to search for plugs."""
    if settings.plug is None:
        return [Finding("smart plug", "absent", "none is named", "name yours under [plug] in the file of --meters")]
    try:
        way = _way_to(settings.plug)
        reading = way.ask()
        meter = _Plug(root, way)
    except (OSError, ValueError, CutlayerError) as error:
        mend = "check the address, and that the plug reports: for Tasmota TelePeriod 10, EnergyRes 5, WattRes 3"
        return [Finding("smart plug", "unfit", f"{msgspec.json.encode(settings.plug).decode()}: {error}", mend)]
    blind = f"; below {_BLIND_BELOW_W:g} W plugs are blind: put several boards, or a lamp, on it"
    detail = f"{reading.power_w:.1f} W{blind if reading.power_w < _BLIND_BELOW_W else ''}"
    return [Finding(way.name, "found", detail, meter=meter)]
