"""Listens for updates while a device trains, with its own connection and a thread that does nothing else."""

import logging
import threading
import time
from collections.abc import Callable

import msgspec

from cutlayer_core.errors import CutlayerError, RemoteError
from cutlayer_core.wire import topics
from cutlayer_core.wire.endpoint import Endpoint
from cutlayer_core.wire.messages import Presence, Update, Updated
from cutlayer_core.wire.presence import new_epoch, will_of
from cutlayer_core.wire.session import Role
from cutlayer_core.wire.transports import LastWill, Transport
from cutlayer_device.service.updates import Updates

__all__ = ["Listener"]

_AGAIN_S = 15.0
_log = logging.getLogger(__name__)


class Listener(threading.Thread):
    """Announces which update a device runs, and takes the next one.

    Args:
        name: of the device.
        updates: of the device.
        connect: makes a connection with the given last will.
        start_anew: called when the device should restart with the update that it took.
    """

    def __init__(
        self, name: str, updates: Updates, connect: Callable[[LastWill], Transport], start_anew: Callable[[], None]
    ) -> None:
        super().__init__(name="updates", daemon=True)
        self._device, self._updates, self._connect, self._start_anew = name, updates, connect, start_anew
        self._endpoint: Endpoint | None = None
        self._sender = 0

    def run(self) -> None:
        """Listen until the program ends; whatever goes wrong here, the device keeps training."""
        while True:
            try:
                self._listen()
            except (CutlayerError, OSError) as error:
                _log.warning("updates: %s; listening again in %g s", error, _AGAIN_S)
            time.sleep(_AGAIN_S)

    def _listen(self) -> None:
        birth = Presence(
            trial=topics.UPDATES,
            device=self._device,
            online=True,
            epoch=new_epoch(),
            bundle=str(self._updates.current),
            engine=self._updates.last,
        )
        transport = self._connect(will_of(topics.state(topics.UPDATES, self._device), birth))
        try:
            self._endpoint = endpoint = Endpoint(
                Role.DEVICE, topics.UPDATES, transport, birth.epoch, lambda presence: self._meet(presence, birth)
            )
            self._sender = 0
            endpoint.claim(topics.state(topics.UPDATES, self._device), birth)
            transport.subscribe(topics.down(topics.UPDATES, self._device))
            transport.subscribe(topics.control(topics.UPDATES))
            while True:
                endpoint.pump(1.0)
                if (
                    self._sender
                    and (message := endpoint.conversations.poll(self._device)) is not None
                    and isinstance(message.header, Update)
                ):
                    self._take(endpoint, bytes(message.payload), message.header.signature)
        finally:
            transport.close()

    def _meet(self, presence: Presence, birth: Presence) -> None:
        """Open a conversation with a sender of updates that has appeared, or replaced another."""
        if presence.online and presence.epoch != self._sender and self._endpoint is not None:
            self._sender = presence.epoch
            self._endpoint.conversations.open(self._device, presence.epoch)
            self._endpoint.presence.announce(msgspec.structs.replace(birth, server=presence.epoch))

    def _take(self, endpoint: Endpoint, content: bytes, signature: bytes) -> None:
        try:
            answer = Updated(ok=True, reason=self._updates.take(content, signature))
        except RemoteError as error:
            answer = Updated(ok=False, reason=str(error)[:2000])
        _log.warning("an update %s: %s", "is taken" if answer.ok else "is refused", answer.reason)
        endpoint.conversations.send(self._device, answer)
        endpoint.drain(timeout_s=5.0)
        if answer.ok:
            self._start_anew()
