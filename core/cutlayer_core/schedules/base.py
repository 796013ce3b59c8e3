"""The contract that every schedule keeps: a frozen struct whose fields are its settings, and a pure decision."""

from collections.abc import Sequence

import msgspec

from cutlayer_core.schedules.mode import Mode

__all__ = ["BaseSchedule"]


class BaseSchedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id"):
    """What most schedules have in common."""

    @property
    def id(self) -> str:
        """The name in the trial file."""
        return str(self.__struct_config__.tag)

    @property
    def exchanges(self) -> bool:
        """Whether cut gradients travel in any epoch."""
        return True

    @property
    def silences(self) -> bool:
        """Whether there are silent epochs, for which the server keeps smashed data."""
        return False

    @property
    def per_client(self) -> bool:
        """Whether each client follows its own losses."""
        return False

    def decide(self, epoch: int, losses: Sequence[float]) -> Mode:
        """The mode of ``epoch``, given the mean training loss of each epoch before it."""
        raise NotImplementedError
