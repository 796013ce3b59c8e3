"""Listening to devices: the next message from one that takes part, or an error that says how it was lost."""

import logging
from collections.abc import Callable
from typing import TypeVar

from cutlayer_core.errors import PeerLost, PeerStartedAnew, RemoteError
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import Message
from cutlayer_server.fleet.admission import StartedAnew
from cutlayer_server.fleet.roll import Roll

__all__ = ["Hearing"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Hearing:
    """Waits for devices, and keeps those that were refused from disturbing those that take part.

    Args:
        endpoint: does the waiting.
        roll: tells who takes part, and who has started anew.
        patience_s: how long a device may be silent.
    """

    def __init__(self, endpoint: Endpoint, roll: Roll, patience_s: float) -> None:
        self._endpoint, self._roll, self._patience_s = endpoint, roll, patience_s

    def next_message(self, device: str, since: float | None = None) -> Message:
        """Wait for the next message from a device.

        Args:
            device: one that takes part.
            since: when the waiting began, by `time.monotonic`; the default is now.

        Raises:
            PeerLost: it was gone or silent for longer than the patience, or started anew and can be spared.
            PeerStartedAnew: a device started anew and cannot be spared.
            RemoteError: a device that takes part broke the protocol.
        """
        message = None
        while message is None:
            if device in self._roll.joining:  # others may have been lost since, so it may be needed now
                lost = PeerLost if self._roll.can_spare(device) else PeerStartedAnew
                raise lost(f"{device} started anew")
            try:
                message = self._undisturbed(lambda: self._endpoint.expect(device, self._patience_s, since))
            except StartedAnew:
                continue
            except PeerLost as error:
                if self._roll.is_online(device):
                    raise
                patience = f"did not come back within {self._patience_s:g} s"
                raise PeerLost(f"{device} is gone: it was killed, or lost power or network, and {patience}") from error
        return message

    def pump(self, timeout_s: float) -> bool:
        """Take what arrives in ``timeout_s``; returns whether any did. Raises as `next_message`, and `StartedAnew`."""
        return bool(self._undisturbed(lambda: self._endpoint.pump(timeout_s)))

    def catch_up(self) -> None:
        """Take note of devices that came while nobody was listening, as during a long evaluation."""
        for _ in self._roll.missing:
            try:
                if not self.pump(0.0):
                    return
            except StartedAnew:
                continue

    def _undisturbed(self, wait: Callable[[], _T]) -> _T | None:
        """Wait; returns None if a device that does not take part broke the protocol, which ends its conversation."""
        try:
            return wait()
        except RemoteError as error:
            if error.device in self._roll.devices:
                raise
            _log.warning("no longer listening to %s", error)
            self._endpoint.conversations.close(error.device)
            return None
