"""The conversation between one device and the server, without I/O: bytes and the time go in, bytes and messages come out."""

from cutlayer_core.wire.session.broadcast import Audience, Speaker
from cutlayer_core.wire.session.conversation import TRANSITIONS, Conversation, Event, Role, State
from cutlayer_core.wire.session.link import WINDOW, Link
from cutlayer_core.wire.session.session import Session

__all__ = [
    "TRANSITIONS",
    "WINDOW",
    "Audience",
    "Conversation",
    "Event",
    "Link",
    "Role",
    "Session",
    "Speaker",
    "State",
]
