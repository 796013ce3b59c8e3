"""What devices reported to have spent, in order, and what they draw when idle."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import msgspec

from cutlayer_core.record.energy import Energy, total
from cutlayer_core.record.events import ClientPass, EpochDone, Settled, Started
from cutlayer_core.record.record import Run
from cutlayer_core.record.usage import Usage

__all__ = ["Account", "Baseline", "Spent", "accounts_of", "baselines_of", "began_s", "spent_by_epoch"]

_MOST_DRIFT, _MOST_DRIFT_C = 0.03, 5.0


class Account(NamedTuple):
    """One report: of a pass and the time before it or, if ``passed`` is false, of time outside of passes.

    ``time_s`` is when the report was closed, on the record's clock.
    """

    time_s: float
    device: str
    epoch: int
    usage: Usage
    passed: bool


class Spent(NamedTuple):
    """The energy of one epoch: of all devices, and of the phases that every pass has."""

    whole: list[Energy]
    phases: dict[str, list[Energy]]


class Baseline(NamedTuple):
    """What a device drew at rest before the first pass and after the last; None if it did not rest or has no meter."""

    device: str
    before: Usage | None
    after: Usage | None

    @property
    def watts(self) -> tuple[float | None, float | None]:
        """Mean power of the rest before, and of the rest after."""
        return _watts(self.before), _watts(self.after)

    @property
    def drifted(self) -> bool:
        """Whether power changed by over 3 %, or heat by over 5 C, between the rests: more than the training changed."""
        before, after = self.watts
        cold_c, hot_c = (rest.temperature_c if rest else None for rest in (self.before, self.after))
        hotter = cold_c is not None and hot_c is not None and abs(hot_c - cold_c) > _MOST_DRIFT_C
        return hotter or bool(before and after and abs(after - before) > _MOST_DRIFT * before)

    def over(self, seconds: float) -> Energy | None:
        """Joules that the device spends idle in this time, by the mean of both rests; None without a rest."""
        found = [rest.energy for rest in (self.before, self.after) if rest and rest.energy and rest.energy.energy_j > 0]
        watts = [each for each in self.watts if each]
        if not found or len({energy.column for energy in found}) > 1:
            return None
        whole = total(found)
        assert whole is not None
        return _scaled(whole, fmean(watts) * seconds / whole.energy_j)

    def added(self, usage: Usage) -> Energy | None:
        """What was spent beyond idling for as long; None without a rest, or if the meter is not at the input."""
        idle = self.over(usage.seconds)
        if usage.energy is None or idle is None or idle.column != usage.energy.column or idle.scope != "dc_input":
            return None
        return msgspec.structs.replace(usage.energy - idle, scope="dc_active")

    def __str__(self) -> str:
        sides = [f"{watts:.2f} W {when}" for watts, when in zip(self.watts, ("before", "after"), strict=True) if watts]
        return ", ".join(sides)


def accounts_of(run: Run) -> list[Account]:
    """Every report; one from outside of passes belongs to the next epoch that was finished, or else to the last."""
    accounts, finished, last = [], 0, len(run.all(EpochDone)) - 1
    for event in run.events:
        match event:
            case EpochDone():
                finished += 1
            case ClientPass(time_s=at_s, device=device, epoch=epoch, usage=Usage() as usage):
                accounts.append(Account(at_s, device, epoch, usage, passed=True))
            case Settled(time_s=at_s, device=device, usage=Usage() as usage):
                closed_s = at_s - (event.idle.seconds if event.idle else 0.0)
                accounts.append(Account(closed_s, device, min(finished, last), usage, passed=False))
    return accounts


def began_s(run: Run) -> float:
    """When the training began, on the record's clock: after the devices had joined and, if they were to, rested."""
    moments = [0.0]
    for event in run.events:
        if isinstance(event, EpochDone):
            break
        if isinstance(event, Started | Settled):
            moments.append(event.time_s)
    return max(moments)


def baselines_of(run: Run) -> list[Baseline]:
    """The baseline of each device that rested, sorted by name."""
    rests: defaultdict[str, dict[bool, Usage]] = defaultdict(dict)
    trained = False
    for event in run.events:
        trained |= isinstance(event, EpochDone)
        if isinstance(event, Settled) and event.idle is not None:
            rests[event.device][trained] = event.idle
    return [Baseline(device, both.get(False), both.get(True)) for device, both in sorted(rests.items())]


def spent_by_epoch(accounts: Sequence[Account], rests: Mapping[str, Baseline], edges_s: Sequence[float]) -> list[Spent]:
    """The energy of each epoch, from one edge to the next, also as ``dc_active`` if every device has rested for it."""
    metered = [account for account in accounts if account.usage.energy is not None]
    added = [rests[each.device].added(each.usage) if each.device in rests else None for each in metered]
    everywhere = set.intersection(*(set(each.usage.phases) for each in metered if each.passed)) if metered else set()
    spent = [Spent([], {name: [] for name in sorted(everywhere)}) for _ in edges_s[1:]]
    for account, more in zip(metered, added, strict=True):
        assert account.usage.energy is not None
        for epoch, share in enumerate(_shares(account, edges_s)):
            if not share:
                continue
            spent[epoch].whole.append(_scaled(account.usage.energy, share))
            if more is not None and None not in added:
                spent[epoch].whole.append(_scaled(more, share))
            for name in everywhere & account.usage.phases.keys():
                spent[epoch].phases[name].append(_scaled(account.usage.phases[name], share))
    return spent


def _shares(account: Account, edges_s: Sequence[float]) -> list[float]:
    """The share of an account's energy that belongs to each epoch, by its power trace or, without one, by time."""
    slots = [slot.power_w for slot in account.usage.trace] or [1.0]
    length_s = account.usage.seconds / len(slots)
    starts_s = [account.time_s - account.usage.seconds + number * length_s for number in range(len(slots))]
    weights = [
        sum(
            watts * max(min(end, start + length_s) - max(begin, start), 0.0)
            for start, watts in zip(starts_s, slots, strict=True)
        )
        for begin, end in itertools.pairwise(edges_s)
    ]
    whole = sum(weights)
    if whole > 0:
        return [weight / whole for weight in weights]
    return [float(number == account.epoch) for number in range(len(edges_s) - 1)]  # no duration, or outside the run


def _scaled(energy: Energy, share: float) -> Energy:
    bounds = {name: share * getattr(energy, name) for name in ("energy_j", "low_j", "high_j")}
    return msgspec.structs.replace(energy, **bounds)


def _watts(rest: Usage | None) -> float | None:
    """The mean power of a rest, from its trace, which covers exactly the time in which the meter was read."""
    if rest is None or rest.energy is None or not rest.seconds:
        return None
    # The first slot may still contain what came before the rest: a slow meter's reading is as old as its period.
    slots = rest.trace[1:] or rest.trace
    return fmean(slot.power_w for slot in slots) if slots else rest.energy.energy_j / rest.seconds
