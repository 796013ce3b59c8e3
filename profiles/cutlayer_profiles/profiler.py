"""A device's own account of a trial: what each pass cost, by phase."""

import hashlib
from collections import defaultdict

import msgspec

from cutlayer_core.errors import UserError
from cutlayer_core.record.energy import Energy
from cutlayer_core.record.usage import Slot, Usage
from cutlayer_profiles.coefficients import Activity, Board, estimate
from cutlayer_profiles.curve import Curve
from cutlayer_profiles.machine import Machine, Traffic, read_machine, read_pss_bytes, wifi_since
from cutlayer_profiles.meters import Meter, Root
from cutlayer_profiles.perf import Counts, PerfCounters
from cutlayer_profiles.sampler import Sampler
from cutlayer_profiles.windows import Intervals, energy_by_phase, energy_of, trace_of

__all__ = ["Profiler"]

_DRIFT_C = 5.0
_MOST_FLAGS = 16
_WEIGHED_S = 1.0
"""Time between two readings of the memory, each of which takes a millisecond."""


class Profiler:
    """Collects marks of phases and readings of the machine and its meter, and reports both.

    Args:
        root: where the machine is read.
        meter: its meter, if it has one.
        board: gives the coefficients for an estimate without a meter; None for no energy at all.
    """

    def __init__(self, root: Root, meter: Meter | None = None, board: Board | None = None) -> None:
        self._root, self._meter, self._board = root, meter, board
        self._sampler = Sampler(meter) if meter else None
        self._marks: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        try:
            self._perf: PerfCounters | None = PerfCounters()
        except OSError:  # as on most virtual machines
            self._perf = None
        if self._sampler is not None:
            self._sampler.start()
        self._before, self._counted = read_machine(root), self._count()
        self._pss_peak_bytes: int | None = None
        self._weighed_at_s = float("-inf")
        self._metered_until_s: float | None = None

    def mark(self, phase: str, begin_s: float, end_s: float) -> None:
        """Mark a phase between two moments of the monotonic clock; phases do not overlap."""
        self._marks[phase].append((begin_s, end_s))
        if end_s - self._weighed_at_s >= _WEIGHED_S:
            self._weigh(end_s)

    def report(self) -> Usage:
        """What was spent since the last report, or since the start."""
        now, counted = read_machine(self._root), self._count()
        usage = _usage(self._before, now, self._counted, counted)
        if self._sampler is not None:
            usage = self._with_energy(usage, now)
        elif self._board is not None:
            usage = self._with_estimate(usage)
        self._weigh(now.at_s)
        usage = msgspec.structs.replace(usage, pss_peak_bytes=self._pss_peak_bytes)
        self._before, self._counted, self._pss_peak_bytes = now, counted, None
        self._marks.clear()
        return usage

    def close(self) -> None:
        """Stop reading."""
        if self._sampler is not None:
            self._sampler.stop()
        if self._perf is not None:
            self._perf.close()

    def _weigh(self, now_s: float) -> None:
        self._weighed_at_s = now_s
        if (pss_bytes := read_pss_bytes()) is not None:
            self._pss_peak_bytes = max(pss_bytes, self._pss_peak_bytes or 0)

    def _count(self) -> Counts | None:
        return self._perf.read() if self._perf else None

    def _with_energy(self, usage: Usage, now: Machine) -> Usage:
        assert self._sampler is not None
        assert self._meter is not None
        samples, problems, cpu_s = self._sampler.take()
        flags = [f"{number} times: {problem}" for problem, number in sorted(problems.items())]
        energy: Energy | None = None
        phases: dict[str, Energy] = {}
        trace: tuple[Slot, ...] = ()
        try:
            curve = Curve(samples, self._meter.period_s, self._meter.accuracy.window_s)
            # From where the last report ended to the last reading, so that there is no gap between reports.
            first, last = curve.span_s
            begin_s = first if self._metered_until_s is None else max(first, self._metered_until_s)
            self._metered_until_s = last
            energy = energy_of(curve, begin_s, last, self._meter)
            marks = {phase: Intervals.of(found) for phase, found in self._marks.items()}
            phases = energy_by_phase(curve, marks, begin_s, last, self._meter)
            trace = trace_of(curve, marks, begin_s, last)
        except UserError as error:
            flags.append(str(error))
        if _drifted(self._before.temperature_c, now.temperature_c):
            flags.append(f"the processor became more than {_DRIFT_C:g} C hotter or colder")
        return msgspec.structs.replace(
            usage,
            meter=self._meter.name,
            meter_id=_id_of(self._meter.place),
            energy=energy,
            phases=phases,
            trace=trace,
            flags=tuple(flags[:_MOST_FLAGS]),
            samples=len(samples.at_s),
            meter_cpu_s=cpu_s,
        )

    def _with_estimate(self, usage: Usage) -> Usage:
        assert self._board is not None
        busy_s = usage.cpu_s if usage.busy_core_s is None else usage.busy_core_s
        activity = Activity(usage.seconds, busy_s, usage.sent_bytes or 0, usage.received_bytes or 0)
        total, _ = estimate(self._board, activity, throttled=bool(usage.throttled), simulated=self._root.replaced)
        place = _id_of(f"{self._boot_id()} coefficients")
        return msgspec.structs.replace(usage, meter=f"coefficients of {self._board.name}", meter_id=place, energy=total)

    def _boot_id(self) -> str:
        try:
            return self._root.read("proc/sys/kernel/random/boot_id")
        except OSError:
            return str(self._root.path)


def _usage(before: Machine, now: Machine, counted: Counts | None, counted_now: Counts | None) -> Usage:
    def passed(earlier: float | None, later: float | None) -> float | None:
        return None if earlier is None or later is None or later < earlier else later - earlier

    spent = {mhz: now.residency_s[mhz] - before.residency_s.get(mhz, 0.0) for mhz in now.residency_s}
    whole = sum(spent.values())
    net = _traffic_since(before.traffic, now.traffic)
    cycles = instructions = None
    if counted and counted_now:
        cycles, instructions = counted_now.cycles - counted.cycles, counted_now.instructions - counted.instructions
    return Usage(
        seconds=now.at_s - before.at_s,
        cpu_s=now.cpu_s - before.cpu_s,
        busy_core_s=passed(before.busy_s, now.busy_s),
        rss_peak_bytes=now.rss_peak_bytes,
        sent_bytes=net.sent_bytes if net else None,
        received_bytes=net.received_bytes if net else None,
        sent_packets=net.sent_packets if net else None,
        received_packets=net.received_packets if net else None,
        cycles=cycles,
        instructions=instructions,
        clocks_s={f"{mhz:g}": seconds for mhz, seconds in sorted(spent.items()) if seconds > 0},
        mean_mhz=sum(mhz * seconds for mhz, seconds in spent.items()) / whole if whole > 0 else None,
        temperature_c=now.temperature_c,
        throttled=tuple(sorted((now.throttled_ever - before.throttled_ever) | before.throttled | now.throttled)),
        wifi=wifi_since(before.wifi, now.wifi),
    )


def _traffic_since(before: Traffic | None, now: Traffic | None) -> Traffic | None:
    """The traffic in between; None if it is not known, or an interface was set up anew."""
    if before is None or now is None or any(later < earlier for earlier, later in zip(before, now, strict=True)):
        return None
    return Traffic(*(later - earlier for earlier, later in zip(before, now, strict=True)))


def _id_of(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()[:12]


def _drifted(before_c: float | None, after_c: float | None) -> bool:
    return before_c is not None and after_c is not None and abs(after_c - before_c) > _DRIFT_C
