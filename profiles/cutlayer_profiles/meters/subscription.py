"""The newest message of one MQTT topic."""

import os
import time

from cutlayer_core.address import split_address
from cutlayer_core.wire.transports import MqttTransport

__all__ = ["Subscription"]

_FIRST_S = 15.0
_STALE_S = 900.0


class Subscription:
    """Listens to a topic.

    Args:
        broker: host or host:port.
        topic: topic of a plug.

    Raises:
        UserError: the address is invalid.
        TransportError: there is no broker.
    """

    def __init__(self, broker: str, topic: str) -> None:
        host, port = split_address(broker)
        self._topic, self._newest = topic, b""
        self.told_at_s = 0.0
        """When the newest message arrived, on the monotonic clock."""
        self._transport = MqttTransport(host, port, f"cutlayer-meter-{os.getpid()}-{time.monotonic_ns():x}")
        self._transport.subscribe(topic)

    def newest(self) -> bytes:
        """The newest payload; waits for the first one.

        Raises:
            OSError: none came, or none for a quarter of an hour.
        """
        wait_s = 0.0 if self._newest else _FIRST_S
        while (packet := self._transport.receive(wait_s)) is not None:
            self._newest, self.told_at_s, wait_s = packet.payload, packet.arrived_at, 0.0
        if not self._newest or time.monotonic() - self.told_at_s > _STALE_S:
            raise OSError(f"nothing came on {self._topic} for {_STALE_S if self._newest else _FIRST_S:g} s")
        return self._newest
