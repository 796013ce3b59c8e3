"""Messages from one process to all: published once, and not acknowledged.

Each has a number, which every receiver is told in its own conversation. A receiver that lacks one asks for it there; so
a message to all may be lost, but never silently, and never in place of another.
"""

from cutlayer_core.errors import ChunkError
from cutlayer_core.wire.chunks import CHUNK_BYTES, MAX_MESSAGE_BYTES, Assembly, Kind, parse_all, split
from cutlayer_core.wire.messages import Message, decode, encode

__all__ = ["Audience", "Speaker"]

_MOST_KEPT = 2
"""Messages kept until they are asked for; a step has one, and the next may arrive early."""


class Speaker:
    """The sending side.

    Args:
        sender_epoch: random 64-bit number of this process.
        chunk_bytes: longest body of a frame.
    """

    def __init__(self, sender_epoch: int, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._epoch, self._chunk_bytes, self._next = sender_epoch, chunk_bytes, 0

    def frames(self, message: Message) -> tuple[int, list[bytes]]:
        """The number of this message, and the frames to publish. Raises `ValueError` if it is too large."""
        number, self._next = self._next, self._next + 1
        return number, [chunk.pack() for chunk in split(encode(message), self._epoch, number, self._chunk_bytes)]


class Audience:
    """The receiving side.

    Invariant: it holds the newest messages of one process, whole or in parts, in total no larger than one message may
    be.

    Args:
        sender_epoch: that of the process whose frames are taken.
    """

    def __init__(self, sender_epoch: int) -> None:
        self._epoch = sender_epoch
        self._partial: dict[int, Assembly] = {}
        self._whole: dict[int, memoryview] = {}

    def receive(self, frame: bytes) -> None:
        """Take a frame. Raises `ChunkError` if it is damaged, foreign, or too large."""
        for chunk in parse_all(frame):
            if chunk.kind is not Kind.DATA or chunk.sender_epoch != self._epoch:
                raise ChunkError("a frame to all devices is of another process than the server")
            number = chunk.message_id
            newest = sorted({*self._partial, *self._whole, number})[-_MOST_KEPT:]
            if number not in newest or number in self._whole:
                continue
            for old in [each for each in (*self._partial, *self._whole) if each not in newest]:
                self._partial.pop(old, None)
                self._whole.pop(old, None)
            if number not in self._partial:
                self._make_room(chunk.total_bytes)
                self._partial[number] = Assembly(chunk)
            if (message := self._partial[number].add(chunk)) is not None:
                del self._partial[number]
                self._whole[number] = message

    def take(self, number: int) -> Message | None:
        """The message with this number, if it has arrived. Raises `MessageError` if it cannot be read."""
        data = self._whole.pop(number, None)
        return None if data is None else decode(data)

    def _make_room(self, size: int) -> None:
        held = sum(each.total_bytes for each in self._partial.values()) + sum(map(len, self._whole.values()))
        if held + size > MAX_MESSAGE_BYTES:
            self._partial.clear()
            self._whole.clear()
