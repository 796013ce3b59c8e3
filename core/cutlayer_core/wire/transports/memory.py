"""A broker inside the process: the standard fixture of the tests, with faults injected by a rule."""

import queue
import threading
import time
from collections.abc import Callable, Sequence

from cutlayer_core.wire.transports.base import PROTOCOL_LIMIT_BYTES, LastWill, Packet, publish_bytes
from cutlayer_core.wire.transports.inbox import take

__all__ = ["MemoryBroker", "MemoryTransport"]

Fault = Callable[[Packet], Sequence[Packet]]
"""Decides what becomes of a data packet: nothing (lost), one, or several (repeated)."""


class MemoryBroker:
    """Routes packets between the transports connected to it, from any thread."""

    def __init__(self, fault: Fault | None = None, max_packet_bytes: int = PROTOCOL_LIMIT_BYTES) -> None:
        self._fault = fault
        self.max_packet_bytes = max_packet_bytes
        """Larger packets are dropped."""
        self._lock = threading.Lock()
        self._subscriptions: list[tuple[str, MemoryTransport]] = []
        self._retained: dict[str, Packet] = {}

    def connect(self, will: LastWill | None = None) -> "MemoryTransport":
        """A new transport on this broker."""
        return MemoryTransport(self, will)

    def subscribe(self, topic_filter: str, transport: "MemoryTransport") -> None:
        """Deliver matching packets to ``transport``, beginning with the retained ones."""
        with self._lock:
            self._subscriptions.append((topic_filter, transport))
            for packet in self._retained.values():
                if _matches(topic_filter, packet.topic):
                    transport.inbox.put(packet)

    def publish(self, packet: Packet, *, retain: bool) -> None:
        """Route one packet; only data packets, which are not retained, pass through the fault rule."""
        if packet.wire_bytes > self.max_packet_bytes:
            return
        with self._lock:
            if retain:
                self._retained[packet.topic] = packet
            copies = self._fault(packet) if self._fault and not retain else [packet]
            for copy in copies:
                for topic_filter, transport in self._subscriptions:
                    if _matches(topic_filter, copy.topic):
                        transport.inbox.put(copy)

    def disconnect(self, transport: "MemoryTransport") -> None:
        """Forget the subscriptions of ``transport``."""
        with self._lock:
            self._subscriptions = [each for each in self._subscriptions if each[1] is not transport]


class MemoryTransport:
    """A `Transport` on a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, will: LastWill | None) -> None:
        self._broker, self._will = broker, will
        self.inbox: queue.SimpleQueue[Packet] = queue.SimpleQueue()

    @property
    def max_packet_bytes(self) -> int:
        """See `Transport`."""
        return self._broker.max_packet_bytes

    def subscribe(self, topic_filter: str) -> None:
        """See `Transport`."""
        self._broker.subscribe(topic_filter, self)

    def publish(self, topic: str, payload: bytes) -> int:
        """See `Transport`."""
        size = publish_bytes(topic, payload)
        self._broker.publish(Packet(topic, payload, size, time.monotonic()), retain=False)
        return size

    def publish_retained(self, topic: str, payload: bytes) -> None:
        """See `Transport`."""
        packet = Packet(topic, payload, publish_bytes(topic, payload), time.monotonic())
        self._broker.publish(packet, retain=True)

    def receive(self, timeout_s: float) -> Packet | None:
        """See `Transport`."""
        return take(self.inbox, timeout_s)

    def reconnections(self) -> int:
        """See `Transport`; memory never reconnects."""
        return 0

    def close(self) -> None:
        """See `Transport`."""
        self._broker.disconnect(self)

    def die(self) -> None:
        """Vanish as a killed process does: the broker publishes the last will."""
        self.close()
        if self._will is not None:
            self.publish_retained(self._will.topic, self._will.payload)


def _matches(topic_filter: str, topic: str) -> bool:
    wanted, levels = topic_filter.split("/"), topic.split("/")
    return len(wanted) == len(levels) and all(a in ("+", b) for a, b in zip(wanted, levels, strict=True))
