"""Every error cutlayer raises on purpose, sorted by whose fault it is.

CutlayerError
├── UserError              the user's mistake: trial file, bundle, data, option (exit status 2)
├── ProvenanceError        energies of different kinds or scopes were put together (a bug, or a mistake of the user)
├── LocalProtocolError     this program broke the rules of the conversation (a bug here)
├── RemoteError            the peer, or the network, sent something that is not allowed
│   ├── ChunkError         a frame that is no chunk of ours, or contradicts its message
│   ├── MessageError       a whole message that cannot be read
│   ├── CodecError         a payload that does not fit its codec, parameters or shape
│   └── RemoteProtocolError  a well-formed message at the wrong time
├── PeerLost               the other side went away, or stayed silent beyond the patience
├── PeerStartedAnew        the other side is there, but as a new process, which knows only what is on its disk
└── TransportError         no broker where one was expected
"""

__all__ = [
    "ChunkError",
    "CodecError",
    "CutlayerError",
    "LocalProtocolError",
    "MessageError",
    "PeerLost",
    "PeerStartedAnew",
    "ProvenanceError",
    "RemoteError",
    "RemoteProtocolError",
    "TransportError",
    "UserError",
]


class CutlayerError(Exception):
    """Base of all errors that cutlayer raises on purpose."""


class UserError(CutlayerError, ValueError):
    """A mistake in what the user gave; the text names the key and what to change."""


class LocalProtocolError(CutlayerError, RuntimeError):
    """This side tried to send a message that the conversation does not allow now."""


class ProvenanceError(CutlayerError, TypeError):
    """Energies that were measured in different ways, or of different things, were put together."""


class RemoteError(CutlayerError, ValueError):
    """Something unacceptable arrived from the network; ``device`` says in whose conversation, if known."""

    device = ""


class ChunkError(RemoteError):
    """A frame that is not a chunk, or that contradicts the message it claims to belong to."""


class MessageError(RemoteError):
    """A reassembled message whose header or length cannot be accepted."""


class CodecError(RemoteError):
    """A payload that cannot be decoded with the given parameters and shape."""


class RemoteProtocolError(RemoteError):
    """The peer sent a valid message that the conversation does not allow now."""


class PeerLost(CutlayerError, ConnectionError):
    """The peer left, died, or was silent for longer than the patience allows."""


class PeerStartedAnew(CutlayerError, ConnectionError):
    """The peer is another process now, or went back to an earlier state; whoever talks to it must do the same."""


class TransportError(CutlayerError, ConnectionError):
    """The broker cannot be reached, or refused us."""
