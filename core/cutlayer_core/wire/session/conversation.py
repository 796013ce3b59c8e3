"""Who may say what, and when: one table, read by both sides.

The state of a conversation is the same on both sides (apart from messages in flight), so one table serves both: an
event is allowed if it is in the row of the current state, and if the side that sends it is the one that may.

    NEW ── assignment ─> IDLE ── begin, exchange ─> TRAINING ── smashed ─> ANSWERING ── gradient ─> TRAINING
                          ^  │                      TRAINING ── lacking ─> LACKING ── shared ─> TRAINING
                          │  └── begin, forward ──> STREAMING ── smashed ─> STREAMING
                          │└─────── weights ──────── TRAINING, STREAMING
                          ├─ keep ──> KEEPING ── kept ──> IDLE
                          ├─ settle ─> SETTLING ── settled ──> IDLE
                          └─ serve ─> SERVING ── query ─> ASKED ── scores ─> SERVING
    NEW ── update ─> UPDATING ── updated ─> CLOSED
    end, from the server, closes the conversation in every state.
"""

from enum import Enum

from cutlayer_core.errors import LocalProtocolError, RemoteProtocolError
from cutlayer_core.schedules import Mode
from cutlayer_core.wire.messages import (
    Assignment,
    Begin,
    End,
    Gradient,
    Header,
    Keep,
    Kept,
    Lacking,
    Query,
    Scores,
    Serve,
    Settle,
    Settled,
    Shared,
    Smashed,
    Update,
    Updated,
    Weights,
)

__all__ = ["TRANSITIONS", "Conversation", "Event", "Role", "State"]


class Role(Enum):
    """The two sides of a conversation."""

    DEVICE = "device"
    SERVER = "server"

    @property
    def peer(self) -> "Role":
        """The other side."""
        return Role.SERVER if self is Role.DEVICE else Role.DEVICE


class State(Enum):
    """Where the conversation stands."""

    NEW = "new"
    IDLE = "idle"
    TRAINING = "training"
    ANSWERING = "answering"
    LACKING = "lacking"
    STREAMING = "streaming"
    KEEPING = "keeping"
    SETTLING = "settling"
    SERVING = "serving"
    ASKED = "asked"
    UPDATING = "updating"
    CLOSED = "closed"

    __hash__ = object.__hash__  # each member exists once; Enum's own hash is a Python call


class Event(Enum):
    """What can be said, and by whom."""

    ASSIGNMENT = (Role.SERVER, "assignment")
    BEGIN_EXCHANGE = (Role.SERVER, "begin exchange")
    BEGIN_FORWARD = (Role.SERVER, "begin forward")
    SMASHED = (Role.DEVICE, "smashed")
    GRADIENT = (Role.SERVER, "gradient")
    LACKING = (Role.DEVICE, "lacking")
    SHARED = (Role.SERVER, "shared")
    WEIGHTS = (Role.DEVICE, "weights")
    KEEP = (Role.SERVER, "keep")
    KEPT = (Role.DEVICE, "kept")
    SETTLE = (Role.SERVER, "settle")
    SETTLED = (Role.DEVICE, "settled")
    SERVE = (Role.SERVER, "serve")
    QUERY = (Role.DEVICE, "query")
    SCORES = (Role.SERVER, "scores")
    UPDATE = (Role.SERVER, "update")
    UPDATED = (Role.DEVICE, "updated")
    END = (Role.SERVER, "end")

    __hash__ = object.__hash__

    def __init__(self, speaker: Role, what: str) -> None:
        self.speaker, self.what = speaker, what
        """The only side that may say it, and what it is called."""


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.NEW: {Event.ASSIGNMENT: State.IDLE, Event.UPDATE: State.UPDATING, Event.END: State.CLOSED},
    State.IDLE: {
        Event.BEGIN_EXCHANGE: State.TRAINING,
        Event.BEGIN_FORWARD: State.STREAMING,
        Event.KEEP: State.KEEPING,
        Event.SETTLE: State.SETTLING,
        Event.SERVE: State.SERVING,
        Event.END: State.CLOSED,
    },
    State.TRAINING: {
        Event.SMASHED: State.ANSWERING,
        Event.LACKING: State.LACKING,
        Event.WEIGHTS: State.IDLE,
        Event.END: State.CLOSED,
    },
    State.ANSWERING: {Event.GRADIENT: State.TRAINING, Event.END: State.CLOSED},
    State.LACKING: {Event.SHARED: State.TRAINING, Event.END: State.CLOSED},
    State.STREAMING: {Event.SMASHED: State.STREAMING, Event.WEIGHTS: State.IDLE, Event.END: State.CLOSED},
    State.KEEPING: {Event.KEPT: State.IDLE, Event.END: State.CLOSED},
    State.SETTLING: {Event.SETTLED: State.IDLE, Event.END: State.CLOSED},
    State.SERVING: {Event.QUERY: State.ASKED, Event.END: State.CLOSED},
    State.ASKED: {Event.SCORES: State.SERVING, Event.END: State.CLOSED},
    State.UPDATING: {Event.UPDATED: State.CLOSED, Event.END: State.CLOSED},
    State.CLOSED: {},
}


class Conversation:
    """State and numbering of one conversation, as one side sees it.

    Invariant: within an epoch the steps of smashed data are 0, 1, 2, ..., or continue from where a pass is resumed, and
    a gradient carries the number of the smashed data it answers; likewise for queries and scores. A message that breaks
    a rule raises and changes nothing.
    """

    def __init__(self, role: Role) -> None:
        self._role = role
        self.state = State.NEW
        self._epoch = -1
        self._next_step = 0
        self._to_all: int | None = None
        """The message to all that the last gradient referred to, until it is asked for."""

    def said(self, header: Header) -> None:
        """Note that this side is about to send ``header``. Raises `LocalProtocolError` if it must not."""
        if problem := self._advance(header, self._role):
            raise LocalProtocolError(f"{self._role.value} must not send this: {problem}")

    def heard(self, header: Header) -> None:
        """Note that the peer sent ``header``. Raises `RemoteProtocolError` if it must not have."""
        if problem := self._advance(header, self._role.peer):
            raise RemoteProtocolError(f"the {self._role.peer.value} broke the protocol: {problem}")

    def _advance(self, header: Header, speaker: Role) -> str:
        """Take a step in the table; or return why it is not allowed, and change nothing."""
        event = _EVENTS_OF_MODES.get(header.mode) if isinstance(header, Begin) else _EVENTS.get(type(header))
        if event is None or event.speaker is not speaker:
            return f"a {type(header).__name__} is not the {speaker.value}'s to send"
        allowed = TRANSITIONS[self.state]
        if event not in allowed:
            names = ", ".join(each.what for each in allowed) or "nothing"
            return f"{event.what} while {self.state.value} (allowed: {names})"
        if problem := self._misnumbered(header):
            return problem
        self.state = allowed[event]
        self._count(header)
        return ""

    def _misnumbered(self, header: Header) -> str:
        match header:
            case Smashed(epoch=epoch, step=step) if step != self._next_step or epoch != self._epoch:
                return f"smashed data of step {epoch}.{step}, expected {self._epoch}.{self._next_step}"
            case Gradient(epoch=epoch, step=step) if step != self._next_step - 1 or epoch != self._epoch:
                return f"gradient of step {epoch}.{step}, expected {self._epoch}.{self._next_step - 1}"
            case Begin(epoch=epoch) if epoch <= self._epoch:
                return f"epoch {epoch} begins after epoch {self._epoch}"
            case Lacking(number=number) if number != self._to_all:
                return f"message {number} to all is lacking, expected {self._to_all}"
            case Query(step=step) if step != self._next_step:
                return f"query {step}, expected {self._next_step}"
            case Scores(step=step) if step != self._next_step - 1:
                return f"scores of query {step}, expected {self._next_step - 1}"
            case Weights(epoch=epoch, steps=steps) if (epoch, steps) != (self._epoch, self._next_step):
                return f"weights after {steps} steps of epoch {epoch}, expected {self._next_step} of {self._epoch}"
        return ""

    def _count(self, header: Header) -> None:
        match header:
            case Smashed(step=step) | Query(step=step):
                self._next_step = step + 1
            case Gradient(shared=shared):
                self._to_all = shared.number if shared else None
            case Begin(epoch=epoch, steps=steps):
                self._epoch, self._next_step = epoch, steps
            case Lacking():
                self._to_all = None


_EVENTS: dict[type[Header], Event] = {
    Assignment: Event.ASSIGNMENT,
    Smashed: Event.SMASHED,
    Gradient: Event.GRADIENT,
    Lacking: Event.LACKING,
    Shared: Event.SHARED,
    Weights: Event.WEIGHTS,
    Keep: Event.KEEP,
    Kept: Event.KEPT,
    Settle: Event.SETTLE,
    Settled: Event.SETTLED,
    Serve: Event.SERVE,
    Query: Event.QUERY,
    Scores: Event.SCORES,
    Update: Event.UPDATE,
    Updated: Event.UPDATED,
    End: Event.END,
}
_EVENTS_OF_MODES: dict[Mode, Event] = {Mode.EXCHANGE: Event.BEGIN_EXCHANGE, Mode.FORWARD: Event.BEGIN_FORWARD}
