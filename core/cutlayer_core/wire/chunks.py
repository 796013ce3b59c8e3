"""Chunks: how one message travels as frames of bounded size, and how it is put together again.

A frame is what one packet carries: any number of chunks without a body, and at most one with a body, which is the last.
A chunk is a 32-byte little-endian header and a body:

    offset  size  field
         0     4  magic ``CUTL``
         4     1  version (1)
         5     1  kind: 1 data; without a body: 2 acknowledgement (epoch, id, index, count and length echo the chunk it
                  answers), 3 reset (the server no longer talks to the process of this epoch, which may join anew)
         6     2  flags (0)
         8     8  sender epoch: random per process start of the side that sent the *data*
        16     4  message id, counted from 0 within the epoch
        20     2  index of this chunk
        22     2  number of chunks
        24     4  length of the whole message in bytes
        28     4  CRC-32 of the 28 bytes before it and of the body

All chunks of a message but the last have the same length. A chunk's length and CRC-32 are checked before anything in it
is trusted; each chunk has its own CRC-32, so that only a damaged chunk is repeated, not the whole message.
"""

import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum

import msgspec

from cutlayer_core.errors import ChunkError

__all__ = [
    "CHUNK_BYTES",
    "HEADER_BYTES",
    "MAX_MESSAGE_BYTES",
    "MOST_WITHOUT_BODY",
    "Assembly",
    "Chunk",
    "Kind",
    "parse",
    "parse_all",
    "reset",
    "split",
]

CHUNK_BYTES = 120_000
"""Body size that sustains line rate while delaying a heartbeat behind it least; below every hosted broker's limit."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message that will be reassembled; memory for it is reserved when its first chunk arrives."""

_FIELDS = struct.Struct("<4sBBHQIHHI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CRC.size
MOST_WITHOUT_BODY = 8
"""Chunks without a body in a frame: twice a window of acknowledgements."""
_MAGIC = b"CUTL"
_VERSION = 1
_KIND_AT = 5
_NOTHING = memoryview(b"")


class Kind(IntEnum):
    """What a chunk is for."""

    DATA = 1
    ACK = 2
    RESET = 3


_WITHOUT_BODY = (Kind.ACK, Kind.RESET)
_KINDS = {each.value: each for each in Kind}


class Chunk(msgspec.Struct, frozen=True):
    """One chunk; ``body`` is a view into the received bytes."""

    kind: Kind
    sender_epoch: int
    message_id: int
    index: int
    count: int
    total_bytes: int
    body: memoryview

    def pack(self) -> bytes:
        """The chunk as bytes: header, then body."""
        position = (self.sender_epoch, self.message_id, self.index, self.count, self.total_bytes)
        fields = _FIELDS.pack(_MAGIC, _VERSION, self.kind, 0, *position)
        return b"".join((fields, _CRC.pack(zlib.crc32(self.body, zlib.crc32(fields))), self.body))

    def acknowledgement(self) -> "Chunk":
        """The chunk that tells the sender that this one arrived."""
        return msgspec.structs.replace(self, kind=Kind.ACK, body=_NOTHING)


def reset(peer_epoch: int) -> bytes:
    """The chunk that tells a process that the server no longer talks to it."""
    return Chunk(Kind.RESET, peer_epoch, 0, 0, 1, 1, _NOTHING).pack()


def split(message: bytes, sender_epoch: int, message_id: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """The chunks of ``message``, in order; their bodies are views, so nothing is copied before a frame is packed.

    Raises:
        ValueError: the message is empty, longer than `MAX_MESSAGE_BYTES`, or needs more than 65,535 chunks.
    """
    count = -(-len(message) // chunk_bytes)
    if not 1 <= len(message) <= MAX_MESSAGE_BYTES or count > 0xFFFF:
        raise ValueError(f"a message of {len(message)} bytes cannot be sent in chunks of {chunk_bytes}")
    view = memoryview(message)
    for index in range(count):
        body = view[index * chunk_bytes : (index + 1) * chunk_bytes]
        yield Chunk(Kind.DATA, sender_epoch, message_id, index, count, len(message), body)


def parse_all(frame: bytes) -> list[Chunk]:
    """Read the chunks of a frame, in order.

    Raises:
        ChunkError: as `parse` does, or too many.
    """
    found: list[Chunk] = []
    rest = memoryview(frame)
    while len(rest) > HEADER_BYTES and rest[_KIND_AT] in _WITHOUT_BODY and len(found) < MOST_WITHOUT_BODY:
        found.append(parse(rest[:HEADER_BYTES]))
        rest = rest[HEADER_BYTES:]
    found.append(parse(rest))
    return found


def parse(frame: bytes | memoryview) -> Chunk:
    """Read a frame of one chunk.

    Raises:
        ChunkError: too short, foreign, of another version, or with fields that contradict each other.
    """
    if len(frame) < HEADER_BYTES:
        raise ChunkError(f"a frame has {len(frame)} bytes, fewer than its {HEADER_BYTES}-byte header")
    magic, version, kind, flags, epoch, message_id, index, count, total = _FIELDS.unpack_from(frame)
    if magic != _MAGIC:
        raise ChunkError(f"a frame begins with {magic!r}, not {_MAGIC!r}: another program publishes on this topic")
    if version != _VERSION or flags != 0:
        raise ChunkError(f"chunk version {version} with flags {flags}; this side reads version {_VERSION}, flags 0")
    body = memoryview(frame)[HEADER_BYTES:]
    if _CRC.unpack_from(frame, _FIELDS.size)[0] != zlib.crc32(body, zlib.crc32(frame[: _FIELDS.size])):
        raise ChunkError(f"chunk {index} of message {message_id} arrived damaged: its CRC-32 does not match")
    if kind not in _KINDS:
        raise ChunkError(f"chunk kind {kind} does not exist")
    if index >= count or not 1 <= total <= MAX_MESSAGE_BYTES:
        raise ChunkError(f"chunk {index} of {count} of a {total}-byte message is impossible")
    chunk = Chunk(_KINDS[kind], epoch, message_id, index, count, total, body)
    if chunk.kind is Kind.DATA:
        _offset(chunk)
    elif chunk.body:
        raise ChunkError(f"a chunk of kind {kind} has no body")
    return chunk


class Assembly:
    """A message being reassembled from chunks in any order; complete when every index has arrived once."""

    def __init__(self, first: Chunk) -> None:
        self.total_bytes = first.total_bytes
        self._count = first.count
        self._buffer = bytearray(first.total_bytes if first.count > 1 else 0)
        self._missing = set(range(first.count))

    @property
    def missing(self) -> int:
        """How many chunks have not arrived."""
        return len(self._missing)

    def add(self, chunk: Chunk) -> memoryview | None:
        """Take one chunk; a repeated one changes nothing. Returns the message, read-only, once it is complete.

        Raises:
            ChunkError: the chunk contradicts the ones before it.
        """
        if (chunk.count, chunk.total_bytes) != (self._count, self.total_bytes):
            raise ChunkError(f"chunk {chunk.index} of message {chunk.message_id} contradicts its other chunks")
        offset = _offset(chunk)
        if self._count == 1:
            self._missing.clear()
            return chunk.body  # no copy: most messages fit into one chunk
        if chunk.index in self._missing:
            self._missing.remove(chunk.index)
            self._buffer[offset : offset + len(chunk.body)] = chunk.body
        return None if self._missing else memoryview(self._buffer).toreadonly()


def _offset(chunk: Chunk) -> int:
    """The offset at which the body of ``chunk`` belongs in its message.

    The last chunk may be shorter, so the common size follows from its distance to the end.
    """
    size, remainder = len(chunk.body), 0
    if chunk.index == chunk.count - 1:
        before = chunk.total_bytes - len(chunk.body)
        size, remainder = divmod(before, chunk.count - 1) if chunk.count > 1 else (len(chunk.body), before)
    fits = chunk.body and remainder == 0 and size * (chunk.count - 1) < chunk.total_bytes <= size * chunk.count
    if not fits or len(chunk.body) > size:
        raise ChunkError(
            f"chunk {chunk.index} of {chunk.count} has {len(chunk.body)} bytes, which does not fit {chunk.total_bytes}"
        )
    return chunk.index * size
