"""The resources that a device used, as it reports them with each pass and as a run record keeps them."""

import msgspec

from cutlayer_core.record.energy import Energy

__all__ = ["Slot", "Usage", "Wifi"]

_MOST_LETTERS, _MOST_PARTS, _MOST = 400, 64, 1e18
_SIGNED = ("signal_dbm", "temperature_c")


class _Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine cannot tell is None, never 0; fields that a later cutlayer adds are ignored."""


class Wifi(_Report, frozen=True):
    """The wireless link; the network appears only as a hash, since its name is private."""

    signal_dbm: float | None = None
    sent_mbit_s: float | None = None
    received_mbit_s: float | None = None
    retries: int | None = None
    """Since the last report."""
    power_save: bool | None = None
    network: str = ""


class Slot(_Report, frozen=True):
    """One of the equal, consecutive time slots of a report."""

    power_w: float
    phase: str
    """The phase that took most of it."""


class Usage(_Report, frozen=True):
    """What one device used since its last report, or since it joined."""

    seconds: float
    cpu_s: float
    """Core seconds of this process."""
    busy_core_s: float | None = None
    """Core seconds of the whole machine, including the kernel's work for the network."""
    rss_peak_bytes: int | None = None
    pss_peak_bytes: int | None = None
    """Peak of readings taken once a second; each process counts its share of memory that several share."""
    sent_bytes: int | None = None
    """Over all interfaces but the loopback, including TCP, IP and other programs' traffic."""
    received_bytes: int | None = None
    sent_packets: int | None = None
    received_packets: int | None = None
    cycles: int | None = None
    instructions: int | None = None
    clocks_s: dict[str, float] = {}
    """Core seconds at each clock in MHz, including idle ones."""
    mean_mhz: float | None = None
    """Mean clock of the cores, weighted by ``clocks_s``."""
    temperature_c: float | None = None
    throttled: tuple[str, ...] = ()
    """What throttled the processor since the last report."""
    wifi: Wifi | None = None
    meter: str = ""
    meter_id: str = ""
    """Equal for devices that read the same meter, whose joules then belong to no single device."""
    energy: Energy | None = None
    """Energy over the whole time."""
    phases: dict[str, Energy] = {}
    """Energy of each phase in which the meter was read often enough."""
    trace: tuple[Slot, ...] = ()
    """Power over time, of the same kind and scope as ``energy``; for a plot."""
    samples: int = 0
    """Number of meter readings."""
    meter_cpu_s: float = 0.0
    """Core seconds spent reading the meter; contained in ``cpu_s``."""
    flags: tuple[str, ...] = ()
    """Why the energy may be wrong."""

    def problem(self) -> str:
        """What is impossible in a report that came from a network; empty if nothing is."""
        for name, energy in [("energy", self.energy), *self.phases.items()]:
            if energy is not None and not energy.low_j <= energy.energy_j <= energy.high_j:
                return f"usage.{name} is outside of its bounds"
        return _problem("usage", msgspec.to_builtins(self))

    def trusted(self) -> "Usage":
        """This report; if it is impossible, an empty one that says why, so that training does not fail over it."""
        problem = self.problem()
        return Usage(seconds=0.0, cpu_s=0.0, flags=(f"its account was refused: {problem[:200]}",)) if problem else self


def _problem(name: str, value: object) -> str:
    if isinstance(value, float | int) and not (-_MOST if name.endswith(_SIGNED) else 0) <= value <= _MOST:
        return f"{name} is {value}"
    if isinstance(value, str) and len(value) > _MOST_LETTERS:
        return f"{name} has {len(value)} letters"
    if isinstance(value, dict | list | tuple) and len(value) > _MOST_PARTS:
        return f"{name} has {len(value)} parts"
    inner: list[tuple[str, object]] = []
    if isinstance(value, dict):
        inner = [(f"{name}.{key}", each) for key, each in value.items()] + [(f"a name in {name}", key) for key in value]
    elif isinstance(value, list | tuple):
        inner = [(f"{name}[{place}]", each) for place, each in enumerate(value)]
    return next(filter(None, (_problem(part, each) for part, each in inner)), "")
