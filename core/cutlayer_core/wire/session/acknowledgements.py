"""Acknowledgements that are owed to the peer, and how long they may wait for something to travel with."""

from cutlayer_core.wire.chunks import MOST_WITHOUT_BODY, Chunk

__all__ = ["Acknowledgements"]

_ANSWER_S = 0.02
"""How long an acknowledgement may wait for an answer to travel with: short compared with a timeout."""
_MOST_OWED = 2
"""Acknowledgements that may wait while a message is arriving: half a window, so that its sender can go on."""


class Acknowledgements:
    """Travel with our next chunk if one is likely to follow at once, as it did last time (RFC 1122, 4.2.3.2).

    Until a message is complete, an acknowledgement travels with that of the peer's next chunk. This halves the packets
    of a conversation in which every message has an answer, and every packet costs radio time.

    Invariant: each chunk that was taken is acknowledged once for each time that it came.
    """

    def __init__(self) -> None:
        self._owed: dict[bytes, None] = {}  # in order; a repeated chunk is owed no second one
        self._since = 0.0
        self._answers_at_once = False
        self.held_back = False
        """Whether the peer should stop sending for now: unacknowledged chunks fill its window."""

    def __bool__(self) -> bool:
        """Whether any is owed, held back or not."""
        return bool(self._owed)

    def owe(self, chunk: Chunk, now: float, *, completes: bool) -> None:
        """Owe an acknowledgement for a chunk that was taken; ``completes`` tells whether it completed a message."""
        if completes or not self._owed:
            self._since = now
        self._owed[chunk.acknowledgement().pack()] = None

    def expect_no_answer(self) -> None:
        """Make what is owed due now: we will not answer for a while."""
        self._answers_at_once = False

    def due_at(self, *, in_the_middle: bool) -> float | None:
        """When they go without waiting for a chunk of ours; None if none is owed, or all are held back."""
        if not self._owed or self.held_back:
            return None
        waits = self._answers_at_once and (not in_the_middle or len(self._owed) < _MOST_OWED)
        return self._since + _ANSWER_S if waits else self._since

    def join(self, frames: list[bytes], now: float, *, in_the_middle: bool) -> list[bytes]:
        """Frames to publish now: ``frames`` with our chunks, and acknowledgements that are due or can travel along."""
        due_at = self.due_at(in_the_middle=in_the_middle)
        if frames:
            self._answers_at_once = now <= self._since + _ANSWER_S
        elif due_at is not None and now < due_at:
            return []
        elif due_at is not None and now > self._since and not in_the_middle:
            self._answers_at_once = False
        if due_at is None:
            return frames
        owed = list(self._owed)
        self._owed.clear()
        groups = range(0, len(owed), MOST_WITHOUT_BODY)
        alone = [b"".join(owed[start : start + MOST_WITHOUT_BODY]) for start in groups]
        return [*alone[:-1], alone[-1] + frames[0], *frames[1:]] if frames else alone
