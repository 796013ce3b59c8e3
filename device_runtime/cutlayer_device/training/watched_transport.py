"""A transport that tells a watchdog that its user is alive."""

from collections.abc import Callable

from cutlayer_core.wire.transports import Packet, Transport

__all__ = ["WatchedTransport"]


class WatchedTransport:
    """A transport whose user is alive as long as it sends or asks for packets.

    In its single loop a device does so at least twice a second while it waits, for a server or a lost network, and once
    per step.

    Args:
        transport: connected.
        alive: called each time it sends or asks.
    """

    def __init__(self, transport: Transport, alive: Callable[[], None]) -> None:
        self._transport, self._alive = transport, alive

    @property
    def max_packet_bytes(self) -> int:
        """See `Transport`."""
        return self._transport.max_packet_bytes

    def subscribe(self, topic_filter: str) -> None:
        """See `Transport`."""
        self._transport.subscribe(topic_filter)

    def publish(self, topic: str, payload: bytes) -> int:
        """See `Transport`."""
        self._alive()
        return self._transport.publish(topic, payload)

    def publish_retained(self, topic: str, payload: bytes) -> None:
        """See `Transport`."""
        self._transport.publish_retained(topic, payload)

    def receive(self, timeout_s: float) -> Packet | None:
        """See `Transport`."""
        self._alive()
        return self._transport.receive(timeout_s)

    def reconnections(self) -> int:
        """See `Transport`."""
        return self._transport.reconnections()

    def close(self) -> None:
        """See `Transport`."""
        self._transport.close()
