"""Packets that have arrived and wait to be taken, bounded per topic and in total."""

import queue
import threading
from collections import Counter

from cutlayer_core.wire.transports.base import Packet

__all__ = ["Inbox", "take"]

_MOST_BYTES = 1 << 18
"""Twice our longest frame; a larger packet is not for us."""
_MOST_A_TOPIC = 32
"""A peer with a window of 4 chunks, which acknowledges 4 of ours, has no more under way."""
_MOST_WAITING_BYTES = 1 << 28
_BIRTHS, _MOST_BIRTH_BYTES, _MOST_WAITING_BIRTH_BYTES = ("/state", "/control"), 1 << 12, 1 << 26
"""Births and wills are not sent again, so they have their own room, which tensors cannot take; they are small."""


def take(packets: "queue.SimpleQueue[Packet]", timeout_s: float) -> Packet | None:
    """The first packet of a queue that nobody else reads, or None after ``timeout_s``.

    Up to Python 3.12, a queue waits forever if a short timeout has passed before it notices that it is empty. So this
    first tries without waiting, after which the queue waits as it should.
    """
    try:
        return packets.get_nowait()
    except queue.Empty:
        if timeout_s <= 0:
            return None
    try:
        return packets.get(timeout=timeout_s)
    except queue.Empty:
        return None


class Inbox:
    """A queue between the thread of the socket and ours.

    Invariant: a peer that floods a topic does not fill the memory, and loses only packets of that topic, as long as few
    peers do so. A dropped packet counts as lost, as QoS 0 allows, and will be sent again.
    """

    def __init__(self) -> None:
        self._packets: queue.SimpleQueue[Packet] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: Counter[str] = Counter()
        self._bytes = {True: 0, False: 0}  # of births, and of the others

    def put(self, packet: Packet) -> bool:
        """Take a packet in; returns whether there was room for it."""
        size, birth = len(packet.payload), packet.topic.endswith(_BIRTHS)
        most = _MOST_BIRTH_BYTES if birth else _MOST_BYTES
        most_waiting = _MOST_WAITING_BIRTH_BYTES if birth else _MOST_WAITING_BYTES
        with self._lock:
            full = self._waiting[packet.topic] >= _MOST_A_TOPIC or self._bytes[birth] + size > most_waiting
            if size > most or full:
                return False
            self._waiting[packet.topic] += 1
            self._bytes[birth] += size
        self._packets.put(packet)
        return True

    def get(self, timeout_s: float) -> Packet | None:
        """The packet that has waited longest, or None after ``timeout_s``."""
        packet = take(self._packets, timeout_s)
        if packet is None:
            return None
        with self._lock:
            self._bytes[packet.topic.endswith(_BIRTHS)] -= len(packet.payload)
            self._waiting[packet.topic] -= 1
            if not self._waiting[packet.topic]:
                del self._waiting[packet.topic]
        return packet
