"""The roll of a trial's devices: who may take part, who does, who is there, and who is about to join."""

from collections.abc import Sequence

from cutlayer_core.wire.messages import Presence

__all__ = ["Roll"]


class Roll:
    """Names and births of the devices; it knows nothing of the network.

    Invariant: ``devices`` is a part of ``listed``, in the same order; a device has at most one admitted birth, and at
    most one more, of a process that is to take its place.

    Args:
        listed: names of the devices that may take part, in the trial's order.
        least: how many the training needs.
    """

    def __init__(self, listed: Sequence[str], least: int) -> None:
        self.listed, self._least = tuple(listed), least
        self.devices = list(listed)
        """Those that take part."""
        self.joining: dict[str, Presence] = {}
        """Births of devices that came during training; they take part from the next round on."""
        self._admitted: dict[str, Presence] = {}
        self._online: set[str] = set()

    @property
    def missing(self) -> tuple[str, ...]:
        """Devices that may take part, but do not."""
        return tuple(name for name in self.listed if name not in self.devices)

    @property
    def known(self) -> list[str]:
        """Devices that were admitted or are joining, whether they are online or not."""
        return [name for name in self.listed if name in self._admitted or name in self.joining]

    @property
    def online(self) -> list[str]:
        """Devices that take part and are not known to be gone."""
        return [name for name in self.devices if name in self._online]

    @property
    def is_enough(self) -> bool:
        """Whether as many devices are online as training needs."""
        return len(self.online) >= self._least

    def is_online(self, device: str) -> bool:
        """Whether a device is not known to be gone."""
        return device in self._online

    def can_spare(self, device: str) -> bool:
        """Whether training can go on without this device."""
        return device in self.devices and len(self.devices) > self._least

    def admitted(self, device: str) -> Presence | None:
        """The birth with which a device was admitted, if it was."""
        return self._admitted.get(device)

    def admit(self, birth: Presence) -> None:
        """Let a device take part, from now on as this process."""
        name = birth.device
        self._admitted[name] = birth
        self._online.add(name)
        self.devices = [each for each in self.listed if each in self.devices or each == name]

    def release(self, device: str) -> Presence:
        """Take a device off; returns the birth with which it was admitted."""
        self.devices.remove(device)
        self._online.discard(device)
        return self._admitted.pop(device)

    def strike_off(self, names: Sequence[str]) -> None:
        """Begin without devices that have not come, or have gone again."""
        for name in names:
            self._admitted.pop(name, None)
        self.devices = [name for name in self.devices if name not in names]

    def move(self, device: str, *, online: bool) -> bool:
        """Note that a device went or came back; returns whether that is news."""
        if online == (device in self._online):
            return False
        (self._online.add if online else self._online.discard)(device)
        return True
