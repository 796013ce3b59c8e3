"""Reassembly of the peer's chunks: messages come out whole, in order, each once."""

from cutlayer_core.errors import ChunkError
from cutlayer_core.wire.chunks import MAX_MESSAGE_BYTES, Assembly, Chunk

__all__ = ["Incoming"]

_MAX_PARTIAL_MESSAGES = 8
"""Messages being reassembled or waiting for an earlier one; a peer with a window of 4 chunks needs no more."""


class Incoming:
    """The receiving half of a link.

    Invariant: it holds no more than one message's size besides the message that is next in order.

    Args:
        peer_epoch: number of the only process whose chunks are taken; None takes the first one heard.
    """

    def __init__(self, peer_epoch: int | None) -> None:
        self._peer_epoch = peer_epoch
        self._expected_id = 0
        self._partial: dict[int, Assembly] = {}
        self._early: dict[int, memoryview] = {}

    @property
    def is_in_the_middle(self) -> bool:
        """Whether a message has arrived only in part."""
        return bool(self._partial)

    def take(self, chunk: Chunk) -> tuple[bool, list[memoryview]]:
        """Take a chunk with a body; returns whether it is new, and the messages that it completes.

        Raises:
            ChunkError: it comes from another process, or is too much; nothing else is affected.
        """
        if self._peer_epoch is None:
            self._peer_epoch = chunk.sender_epoch
        if chunk.sender_epoch != self._peer_epoch:
            raise ChunkError("a frame is of another process than the one that announced itself")
        if chunk.message_id < self._expected_id or chunk.message_id in self._early:
            return False, []
        assembly = self._partial.get(chunk.message_id) or self._begin(chunk)
        missing = assembly.missing
        message = assembly.add(chunk)
        if message is None:
            return assembly.missing < missing, []
        del self._partial[chunk.message_id]
        self._early[chunk.message_id] = message
        return True, self._ready()

    def _begin(self, chunk: Chunk) -> Assembly:
        # The next message in order is always let in, or nothing would ever complete.
        early = chunk.message_id != self._expected_id
        if early and len(self._partial) + len(self._early) >= _MAX_PARTIAL_MESSAGES:
            raise ChunkError(f"message {chunk.message_id} was begun before {_MAX_PARTIAL_MESSAGES} others ended")
        if early and self._held_bytes() + chunk.total_bytes > MAX_MESSAGE_BYTES:
            raise ChunkError(f"message {chunk.message_id} does not fit beside those that have not ended")
        assembly = self._partial[chunk.message_id] = Assembly(chunk)
        return assembly

    def _ready(self) -> list[memoryview]:
        ready = []
        while self._expected_id in self._early:
            ready.append(self._early.pop(self._expected_id))
            self._expected_id += 1
        return ready

    def _held_bytes(self) -> int:
        return sum(each.total_bytes for each in self._partial.values()) + sum(map(len, self._early.values()))
