"""What a device spent, as it reports it with each pass, and as a run record has it."""

import msgspec

from cutlayer_core.record.energy import Energy

__all__ = ["Slot", "Usage", "Wifi"]

_MOST_LETTERS, _MOST_PARTS, _MOST = 400, 64, 1e18
_SIGNED = ("signal_dbm", "temperature_c")


class _Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine does not tell is None, never 0; what a later cutlayer adds is left out."""


class Wifi(_Report, frozen=True):
    """Of the wireless link; of the network only a hash, since its name is nobody's business."""

    signal_dbm: float | None = None
    sent_mbit_s: float | None = None
    received_mbit_s: float | None = None
    retries: int | None = None
    """Since the last report."""
    power_save: bool | None = None
    network: str = ""


class Slot(_Report, frozen=True):
    """A stretch of the time of a report, of even lengths one after another."""

    power_w: float
    phase: str
    """The one that took most of it."""


class Usage(_Report, frozen=True):
    """Of one device, since its last report or since it joined."""

    seconds: float
    cpu_s: float
    """Core seconds of this process."""
    busy_core_s: float | None = None
    """Of the whole machine, with what the kernel does for the network."""
    rss_peak_bytes: int | None = None
    pss_peak_bytes: int | None = None
    """Of readings once a second; what several processes share counts as each one's share."""
    sent_bytes: int | None = None
    """Over all interfaces but the loopback, with TCP, IP and others' traffic."""
    received_bytes: int | None = None
    sent_packets: int | None = None
    received_packets: int | None = None
    cycles: int | None = None
    instructions: int | None = None
    clocks_s: dict[str, float] = {}
    """Core seconds at each clock in MHz, idle ones too."""
    mean_mhz: float | None = None
    """Of the cores, weighted by these."""
    temperature_c: float | None = None
    throttled: tuple[str, ...] = ()
    """What held the processor back since the last report."""
    wifi: Wifi | None = None
    meter: str = ""
    meter_id: str = ""
    """Equal for devices that read one and the same meter, whose joules are then nobody's alone."""
    energy: Energy | None = None
    """Of all the time."""
    phases: dict[str, Energy] = {}
    """Of each phase in which the meter was read often enough."""
    trace: tuple[Slot, ...] = ()
    """The power over the time, of the kind and scope of ``energy``; for a picture."""
    samples: int = 0
    """Readings of the meter."""
    meter_cpu_s: float = 0.0
    """Core seconds that reading it took, in ``cpu_s`` as well."""
    flags: tuple[str, ...] = ()
    """Why the energy may be wrong."""

    def problem(self) -> str:
        """What cannot be in a report that came from a network; empty if all can be."""
        for name, energy in [("energy", self.energy), *self.phases.items()]:
            if energy is not None and not energy.low_j <= energy.energy_j <= energy.high_j:
                return f"usage.{name} is outside of its bounds"
        return _problem("usage", msgspec.to_builtins(self))

    def trusted(self) -> "Usage":
        """This report; or, of one that cannot be, what is wrong with it, since nobody's training fails for his account."""
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
