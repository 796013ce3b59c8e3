"""Who takes part in an epoch, and in which mode."""

from collections.abc import Collection, Iterable, Sequence

import msgspec
import numpy as np

from cutlayer_core.record.events import Step
from cutlayer_core.samples.draws import seed_of
from cutlayer_core.schedules import Mode
from cutlayer_core.trial.trial import Trial

__all__ = ["History", "Selection"]

_CHOICE = 3
"""Purpose number of the seed that chooses devices for an epoch."""


class History(msgspec.Struct):
    """What later epochs are decided by."""

    losses: list[float] = []
    """Mean training losses of the epochs that are over."""
    client_losses: dict[str, list[float]] = {}
    """The same for each device, over the epochs in which it took part."""
    kept: dict[str, int] = {}
    """By device, the epoch of its smashed data that can be trained on again."""
    modes: dict[str, Mode] = {}
    """Modes of the present epoch; ``chosen`` are the devices chosen for it."""
    chosen: set[str] = set()

    def forget(self, device: str) -> None:
        """Remove a device that is no longer part of the trial."""
        for each in (self.client_losses, self.kept, self.modes):
            each.pop(device, None)
        self.chosen.discard(device)


class Selection:
    """Who takes part in the present epoch, and how.

    Invariant: smashed data are kept only while the client weights that produced them are still the device's.

    Args:
        trial: schedule, seeds, and number of clients per round.
        shares_weights: whether one device's updates change the weights with which the others go on.
        history: to go on from.
    """

    def __init__(self, trial: Trial, *, shares_weights: bool, history: History) -> None:
        self.history = history
        self._trial, self._shares_weights = trial, shares_weights
        self._listed: tuple[str, ...] = ()

    def start(self, epoch: int, listed: Sequence[str], present: Collection[str]) -> None:
        """Decide on an epoch: ``listed`` devices may take part, and ``present`` ones are here."""
        self._listed = tuple(listed)
        self.history.modes = {device: self._decide(device, epoch) for device in listed}
        order, wanted = list(range(len(listed))), self._trial.clients_per_round
        if wanted:
            order = np.random.default_rng(seed_of(self._trial.seeds.data, epoch, _CHOICE)).permutation(order).tolist()
        drawn = [listed[number] for number in order]
        able = [device for device in drawn if self._is_silent(device) or device in present]
        # In a silent epoch, devices with kept data come first: the others would have to send.
        able.sort(key=lambda device: not self._is_silent(device))
        self.history.chosen = set(able[:wanted] if wanted else able)

    def go_on(self, listed: Sequence[str]) -> None:
        """Resume the present epoch, which was decided on earlier."""
        self._listed = tuple(listed)

    def mode(self, device: str) -> Mode:
        """What a device does."""
        return self.history.modes[device]

    def devices(self, present: Collection[str]) -> tuple[str, ...]:
        """The devices that take part, in the trial's order; silent ones even if they are not here."""
        here = set(present)
        return tuple(
            device
            for device in self._listed
            if device in self.history.chosen and (self._is_silent(device) or device in here)
        )

    def modes(self, devices: Iterable[str]) -> tuple[str, dict[str, str]]:
        """The mode of these devices, or "mixed" and the mode of each; "none" if there is no device."""
        found = {device: self.mode(device).value for device in devices}
        different = set(found.values())
        if len(different) > 1:
            return "mixed", found
        return (different.pop() if different else "none"), {}

    def missing(self, returned: Collection[str], present: Collection[str]) -> tuple[str, ...]:
        """Devices that were wanted but have not ``returned``; one not drawn is missing only if it is not here."""
        idle = {device for device in self._listed if device not in self.history.chosen and device in present}
        return tuple(device for device in self._listed if device not in returned and device not in idle)

    def end(self, steps: Iterable[Step], returned: Collection[str]) -> float:
        """End the epoch; returns its mean loss, or that of the previous epoch if no device was left."""
        sums: dict[str, tuple[float, int]] = {}
        for step in steps:
            loss, samples = sums.get(step.device, (0.0, 0))
            sums[step.device] = loss + step.loss * step.samples, samples + step.samples
        for device in returned:
            loss, samples = sums[device]
            self.history.client_losses.setdefault(device, []).append(loss / samples)
        changed = {device for device in returned if self.mode(device) is Mode.EXCHANGE}
        for device in list(self.history.kept) if changed and self._shares_weights else changed:
            self.history.kept.pop(device, None)
        total = sum(samples for _, samples in sums.values())
        before = self.history.losses[-1] if self.history.losses else 0.0
        mean = sum(loss for loss, _ in sums.values()) / total if total else before
        self.history.losses.append(mean)
        return mean

    def _is_silent(self, device: str) -> bool:
        return self.history.modes[device] is Mode.SILENT

    def _decide(self, device: str, epoch: int) -> Mode:
        """The mode of a device; without kept data it cannot be silent."""
        schedule = self._trial.schedule
        own = self.history.client_losses.get(device, [])
        mode = schedule.decide(len(own), own) if schedule.per_client else schedule.decide(epoch, self.history.losses)
        return Mode.FORWARD if mode is Mode.SILENT and device not in self.history.kept else mode
