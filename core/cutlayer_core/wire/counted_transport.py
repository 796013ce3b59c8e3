"""A transport that counts the packets of each device's conversation."""

from collections import Counter

from cutlayer_core.wire.chunks import CHUNK_BYTES, HEADER_BYTES, MOST_WITHOUT_BODY
from cutlayer_core.wire.transports import Packet, Transport

__all__ = ["CountedTransport"]

_BESIDE_BYTES = 128 + MOST_WITHOUT_BODY * HEADER_BYTES
"""Generous allowance for what an MQTT packet holds besides its topic and one chunk with a body."""


class CountedTransport:
    """Counts whole MQTT packets by device; messages to all devices are counted under `topics.SERVER`.

    Args:
        transport: connected.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._reconnections = 0
        self.subscribe, self.publish_retained, self.receive = (
            transport.subscribe,
            transport.publish_retained,
            transport.receive,
        )
        self.sent_bytes: Counter[str] = Counter()
        """Published in each device's conversation."""
        self.received_bytes: Counter[str] = Counter()
        """Received in each device's conversation."""

    def publish(self, device: str, topic: str, frame: bytes) -> None:
        """Send a frame of a conversation."""
        self.sent_bytes[device] += self._transport.publish(topic, frame)

    def count_received(self, device: str, packet: Packet) -> None:
        """Count a packet that belongs to a conversation."""
        self.received_bytes[device] += packet.wire_bytes

    def was_replaced(self) -> bool:
        """Whether the connection has been replaced since this was last asked."""
        before, self._reconnections = self._reconnections, self._transport.reconnections()
        return self._reconnections != before

    def largest_chunk(self, topic: str) -> int:
        """How many bytes of a message the broker lets through in one packet on this topic."""
        room = self._transport.max_packet_bytes - len(topic.encode()) - HEADER_BYTES - _BESIDE_BYTES
        return min(CHUNK_BYTES, max(room, 1))
