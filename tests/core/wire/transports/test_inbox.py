"""Packets that wait: bounded, and waited for no longer than was asked."""

import threading

import pytest

from cutlayer_core.wire.transports import MemoryBroker
from cutlayer_core.wire.transports.base import Packet
from cutlayer_core.wire.transports.inbox import Inbox


def test_a_flood_on_one_topic_leaves_room_for_the_others():
    inbox = Inbox()
    taken = [inbox.put(Packet("t/a/up", bytes(100_000), 100_000, 0.0)) for _ in range(100)]
    assert sum(taken) == 32
    assert inbox.put(Packet("t/b/up", b"x", 1, 0.0))
    assert not inbox.put(Packet("t/b/up", bytes(1 << 19), 1 << 19, 0.0))
    assert [inbox.get(0.0).topic for _ in range(33)] == ["t/a/up"] * 32 + ["t/b/up"]
    assert inbox.get(0.0) is None
    assert inbox.put(Packet("t/a/up", b"x", 1, 0.0))


def test_tensors_do_not_take_the_room_of_births(monkeypatch):
    monkeypatch.setattr("cutlayer_core.wire.transports.inbox._MOST_WAITING_BYTES", 1000)
    inbox = Inbox()
    assert inbox.put(Packet("t/a/up", bytes(1000), 1000, 0.0))
    assert not inbox.put(Packet("t/b/up", b"x", 1, 0.0))
    assert inbox.put(Packet("t/b/state", b"birth", 5, 0.0))
    assert not inbox.put(Packet("t/a/state", bytes(1 << 13), 1 << 13, 0.0))
    assert [inbox.get(0.0).topic for _ in range(2)] == ["t/a/up", "t/b/state"]


@pytest.mark.parametrize("kind", ["of a socket", "in memory"])
def test_a_short_wait_ends(kind):
    """Up to Python 3.12 one whose time was over before the queue was looked at did not."""
    packet = Packet("t/a/up", b"x", 1, 0.0)

    def wait():
        for _ in range(2000):
            inbox, memory = Inbox(), MemoryBroker().connect()
            put, get = (inbox.put, inbox.get) if kind == "of a socket" else (memory.inbox.put, memory.receive)
            for timeout_s in (0.0, 1e-9, 1e-6):
                assert get(timeout_s) is None
                put(packet)
                assert get(timeout_s) is packet
                assert get(timeout_s) is None

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(20)
    assert not waiting.is_alive()
