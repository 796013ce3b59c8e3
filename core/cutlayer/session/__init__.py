"""The conversation between one device and the server, without I/O: bytes and the time go in, bytes and messages come out."""

from cutlayer.session.broadcast import Audience, Speaker
from cutlayer.session.conversation import TRANSITIONS, Conversation, Event, Role, State
from cutlayer.session.link import WINDOW, Link
from cutlayer.session.session import Session

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
