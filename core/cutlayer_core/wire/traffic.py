"""The bytes of each conversation as they cross the transport, and how large a chunk may be there."""

from collections import Counter

from cutlayer_core.wire.chunks import CHUNK_BYTES, HEADER_BYTES, MOST_WITHOUT_BODY
from cutlayer_core.wire.transports import Transport

__all__ = ["Traffic", "largest_chunk"]

_BESIDE_BYTES = 128 + MOST_WITHOUT_BODY * HEADER_BYTES
"""What an MQTT packet has beside topic and a chunk with a body, generously."""


class Traffic:
    """Counts whole MQTT packets by device; messages to all devices are counted under `topics.SERVER`."""

    def __init__(self) -> None:
        self.sent_bytes: Counter[str] = Counter()
        """Published in each device's conversation."""
        self.received_bytes: Counter[str] = Counter()
        """Received in each device's conversation."""


def largest_chunk(transport: Transport, topic: str) -> int:
    """How many bytes of a message the broker lets through in one packet on this topic."""
    room = transport.max_packet_bytes - len(topic.encode()) - HEADER_BYTES - _BESIDE_BYTES
    return min(CHUNK_BYTES, max(room, 1))
