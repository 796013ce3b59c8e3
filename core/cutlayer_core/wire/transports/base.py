"""What a transport must do, and what it delivers."""

from typing import NamedTuple, Protocol

__all__ = ["PROTOCOL_LIMIT_BYTES", "LastWill", "Packet", "Transport", "publish_bytes"]

PROTOCOL_LIMIT_BYTES = 268_435_460
"""The largest packet of MQTT itself: five bytes of header, and a length of four times seven bits."""


class Packet(NamedTuple):
    """One publication as it arrived."""

    topic: str
    payload: bytes
    wire_bytes: int
    """Size of the MQTT packet; TCP, IP and radio framing come on top."""
    arrived_at: float
    """`time.monotonic` when it came in; it may have waited since."""


class LastWill(NamedTuple):
    """What the broker publishes, retained, when a client vanishes without saying goodbye."""

    topic: str
    payload: bytes


class Transport(Protocol):
    """A connection to a broker. A protocol, since tests run whole trials over `MemoryTransport`."""

    @property
    def max_packet_bytes(self) -> int:
        """The largest packet that the broker takes."""

    def subscribe(self, topic_filter: str) -> None:
        """Ask for packets on matching topics, also after every reconnection."""

    def publish(self, topic: str, payload: bytes) -> int:
        """Send at most once, as data are sent; returns the size of the MQTT packet in bytes."""

    def publish_retained(self, topic: str, payload: bytes) -> None:
        """Send at least once, again after every reconnection, and retain for later subscribers, as births are."""

    def receive(self, timeout_s: float) -> Packet | None:
        """The next packet, or None after ``timeout_s``. Raises `TransportError` if the connection is lost for good."""

    def reconnections(self) -> int:
        """How often the connection has been replaced so far."""

    def close(self) -> None:
        """Say goodbye, so that no last will is published, and release the connection."""


def publish_bytes(topic: str, payload: bytes, *, version: int = 4) -> int:
    """Size of an MQTT PUBLISH packet at QoS 0.

    ``version`` is that of the protocol: 4 (OASIS MQTT 3.1.1, section 3.3), or 5, which has a byte more for properties,
    of which we send none (OASIS MQTT 5.0, section 3.3.2.3).
    """
    remaining = 2 + len(topic.encode()) + (version == 5) + len(payload)
    length_field = 1 + (remaining > 0x7F) + (remaining > 0x3FFF) + (remaining > 0x1FFFFF)
    return 1 + length_field + remaining
