"""Messages: a typed header in MessagePack, then the raw payload it describes.

    4 bytes   length of the header, little-endian
    header    one of the structs below, told apart by its ``kind``
    payload   encoded tensor, or client weights as safetensors; empty if the header mentions none

`Presence` travels alone on the retained state topics; all others travel in chunks.
"""

from typing import Annotated, Any

import msgspec

from cutlayer_core.codecs import Codecs, Payload, Tensor
from cutlayer_core.errors import MessageError
from cutlayer_core.record.usage import Usage
from cutlayer_core.schedules import Mode

__all__ = [
    "Assignment",
    "Augmentation",
    "Begin",
    "End",
    "Gradient",
    "Header",
    "Keep",
    "Kept",
    "Lacking",
    "Message",
    "Position",
    "Presence",
    "Query",
    "Scores",
    "Serve",
    "Settle",
    "Settled",
    "Shared",
    "SharedRows",
    "Smashed",
    "Tensor",
    "Update",
    "Updated",
    "Weights",
    "decode",
    "encode",
]

MAX_HEADER_BYTES = 1 << 20
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True):
    """What every message says: which trial and device it belongs to (filled in by the session)."""

    trial: str = ""
    device: str = ""


class Position(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a device's training stands: after ``steps`` steps of an epoch. Bounded, since it becomes a file name."""

    epoch: Annotated[int, msgspec.Meta(ge=0, lt=10**9)]
    steps: Annotated[int, msgspec.Meta(ge=0, lt=10**9)]


class Presence(Header, frozen=True, tag="presence"):
    """Retained birth of a device or of the server, and, with ``online`` false, its last will.

    ``epoch`` is drawn anew each time that a process takes part, so that an old will is not mistaken for a new death,
    nor frames from before a restart for new ones.
    """

    online: bool
    epoch: _Count
    samples: _Count = 0
    bundle: str = ""
    """Fingerprint of the model, cut and optimizer that the device was given."""
    engine: str = ""
    server: _Count = 0
    """The server epoch that this device answers; 0 before it has heard of a server."""
    run: _Count = 0
    """The run whose states the device holds, or that the server leads; 0 for none."""
    held: Annotated[tuple[Position, ...], msgspec.Meta(max_length=16)] = ()
    """The states from which it can go on."""
    serves: bool = False
    """Whether this server answers queries instead of training."""
    over: str = ""
    """Why the run is over, in the farewell of a server; a device that missed the end learns it from this."""


class Augmentation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Random changes to training images, drawn anew each epoch from the trial's seed."""

    flip: bool = False
    crop: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0


class Assignment(Header, frozen=True, tag="assignment"):
    """Server to device, once: everything in the trial that the device must obey.

    The device resumes from the state that it kept at ``restore``; without one, it begins as its bundle says.
    """

    client: _Count
    seed: _Count
    batch_size: Annotated[int, msgspec.Meta(ge=1)]
    learning_rate: _Positive
    codecs: Codecs
    augmentation: Augmentation
    patience_s: _Positive
    rejoins: bool = False
    """Whether training goes on without this device if it is lost, so that it should join again."""
    run: _Count = 0
    restore: Position | None = None


class Begin(Header, frozen=True, tag="begin"):
    """Server to device: pass over your samples in this mode. Payload: client weights to start from, unless it has them.

    After a crash, the pass resumes where both sides can: ``steps`` of it are already done. If they were optimizer
    steps, the device has its weights from its own state, and there is no payload.
    """

    epoch: Annotated[int, msgspec.Meta(ge=0, lt=10**9)]
    mode: Mode
    steps: Annotated[int, msgspec.Meta(ge=0, lt=10**9)] = 0


class Keep(Header, frozen=True, tag="keep"):
    """Server to a device between two passes: keep the present state on disk."""

    position: Position


class Kept(Header, frozen=True, tag="kept"):
    """Device to server: the state is on disk."""


class Settle(Header, frozen=True, tag="settle"):
    """Server to a device between two passes: report what you used, then idle, so that a meter shows what you draw."""

    idle_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 0.0


class Settled(Header, frozen=True, tag="settled"):
    """Device to server: what it used since its last report, and what it drew while it idled."""

    usage: Usage | None = None
    idle: Usage | None = None


class Smashed(Header, frozen=True, tag="smashed"):
    """Device to server: smashed data of one batch, with its labels (one unsigned 16-bit integer a sample)."""

    epoch: _Count
    step: _Count
    tensor: Tensor
    labels: bytes


class SharedRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which message to all devices has the first rows of a cut gradient, and how they are encoded."""

    number: _Count
    tensor: Tensor


class Gradient(Header, frozen=True, tag="gradient"):
    """Server to device: the cut gradient for one batch, and the loss it comes from.

    If all devices share the first rows, these came in a message to all, and ``tensor`` has the others, if there are
    any. With ``keep``, the device saves its state after this step to disk before it goes on. ``spent_s`` is how long
    the batch was at the server, queued or being processed; the rest of the device's wait was the network's.
    """

    epoch: _Count
    step: _Count
    tensor: Tensor | None
    loss: float
    shared: SharedRows | None = None
    spent_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    keep: bool = False


class Lacking(Header, frozen=True, tag="lacking"):
    """Device to server: the message to all with this number, to which the last gradient refers, did not arrive."""

    number: _Count


class Shared(Header, frozen=True, tag="shared"):
    """Server to all devices, or to one that lacks it. Payload: the first rows of the cut gradients of a step."""


class Weights(Header, frozen=True, tag="weights"):
    """Device to server: its pass is over; ``phases_s`` says where the time went, ``usage`` what it cost.

    Payload: the client weights, if the pass changed them.
    """

    epoch: _Count
    steps: _Count
    phases_s: dict[str, float]
    usage: Usage | None = None


class Serve(Header, frozen=True, tag="serve"):
    """Server to device: it answers queries from now on. Payload: the trained client weights."""


class Query(Header, frozen=True, tag="query"):
    """Device to server: smashed data of samples to be classified."""

    step: _Count
    tensor: Tensor


class Scores(Header, frozen=True, tag="scores"):
    """Server to device: the model's output for a query, float32 of this shape, one row per sample."""

    step: _Count
    shape: tuple[Annotated[int, msgspec.Meta(ge=1)], Annotated[int, msgspec.Meta(ge=1)]]


class Update(Header, frozen=True, tag="update"):
    """Laptop to device, outside of trials: a new bundle or configuration. Payload: what `cutlayer_core.bundles.update` packs."""

    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
    """Ed25519, over the payload."""


class Updated(Header, frozen=True, tag="updated"):
    """Device to laptop: the update works here, and the device restarts with it; or why nothing was changed."""

    ok: bool
    reason: Annotated[str, msgspec.Meta(max_length=2000)]


class End(Header, frozen=True, tag="end"):
    """Server to device: the trial is over, and why; ``ok`` is false if this device failed or was refused."""

    reason: str
    ok: bool = True


_Training = Presence | Assignment | Begin | Keep | Kept | Smashed | Gradient | Lacking | Shared | Weights | End
_HEADERS = _Training | Settle | Settled | Serve | Query | Scores | Update | Updated
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(_HEADERS)


class Message(msgspec.Struct, frozen=True):
    """A header with its payload."""

    header: Header
    payload: Payload = b""


def encode(message: Message) -> bytes:
    """The message as bytes."""
    header = msgspec.msgpack.encode(message.header)
    return b"".join((len(header).to_bytes(4, "little"), header, message.payload))


def decode(data: bytes | memoryview) -> Message:
    """Read a message; its payload is a view of ``data``.

    Raises:
        MessageError: the header is cut off, too long, of an unknown kind, or has a field that does not belong.
    """
    view, length = memoryview(data), int.from_bytes(data[:4], "little")
    if len(data) < 4 or length > min(MAX_HEADER_BYTES, len(data) - 4):
        raise MessageError(f"a message of {len(data)} bytes cannot hold the header it announces")
    try:
        header = _decoder.decode(view[4 : 4 + length])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"a message header cannot be read: {error}") from error
    return Message(header, view[4 + length :])
