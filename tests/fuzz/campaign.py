"""Feed mutated inputs to everything that reads what others wrote, and see that it takes them or refuses them by name.

    python tests/fuzz/campaign.py --inputs 10000000 --seed 1

An input may be accepted, or refused with the one error its reader promises; anything else, or more than a second, ends the
campaign with the input as hexadecimal. Inputs that broke something once stand in ``seeds/<reader>/`` and are read first.
"""

import argparse
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.codecs import Codecs, Fp8, Fp16, Fwq, IntQ, ProductQuantizer, Raw, SplitFC, TopK
from cutlayer_core.codecs.lossless import expand, shrink
from cutlayer_core.errors import ChunkError, CodecError, MessageError, PeerStartedAnew, RemoteProtocolError, UserError
from cutlayer_core.record.usage import Usage
from cutlayer_core.schedules import Mode
from cutlayer_core.trial.trial import read_trial
from cutlayer_core.wire.chunks import HEADER_BYTES, parse, parse_all, reset, split
from cutlayer_core.wire.messages import (
    Assignment,
    Augmentation,
    Begin,
    End,
    Gradient,
    Keep,
    Kept,
    Lacking,
    Message,
    Position,
    Presence,
    Query,
    Scores,
    Serve,
    Settle,
    Settled,
    Shared,
    SharedRows,
    Smashed,
    Tensor,
    Update,
    Updated,
    Weights,
    decode,
    encode,
)
from cutlayer_core.wire.session import Audience, Link, Role, Session
from cutlayer_core.wire.weights import decode_weights, encode_weights
from cutlayer_device.engines.onnx_file import require_self_contained

LONGEST_S = 1.0
MOST_MIB = 300
"""More than at the beginning: two messages of 64 MiB being put together, with copies."""
SEEDS = Path(__file__).parent / "seeds"
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x03FFFFFF, 0x04000001]


class Target(NamedTuple):
    """Something that reads: ``read`` may raise ``refusal``; ``examples`` are what it is meant for."""

    read: Callable[[bytes], object]
    refusal: type[Exception] | tuple[type[Exception], ...]
    examples: list[bytes]
    share: int
    """Of a thousand inputs."""


def mutated(rng, example):
    """One to four small changes, as a damaged disk, a rewritten header or a spliced stream would make."""
    data = bytearray(example)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at] = rng.choice(INTERESTING) & 0xFF
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 4:
            data[at : at + rng.choice([1, 2, 4, 8])] = b""
        elif kind == 5 and len(data) >= 4:
            at = min(at, len(data) - 4)
            data[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(INTERESTING))
        elif kind == 6:
            other = rng.randrange(len(data) + 1)
            data[at:at] = data[min(at, other) : max(at, other)][:64]
    return bytes(data)


class Reassembly:
    """A receiving link; frames get their CRC-32 made right, so that what comes after it is reached."""

    def __init__(self):
        self._link, self._count = Link(1, 7), 0

    def __call__(self, frame):
        self._count += 1
        if self._count % 1000 == 0:
            self._link = Link(1, 7)
        if len(frame) >= HEADER_BYTES:
            crc = zlib.crc32(frame[HEADER_BYTES:], zlib.crc32(frame[: HEADER_BYTES - 4]))
            frame = frame[: HEADER_BYTES - 4] + struct.pack("<I", crc) + frame[HEADER_BYTES:]
        self._link.receive(frame, self._count * 0.01)
        self._link.frames_to_send(self._count * 0.01)


def file_reader(path, read):
    def from_bytes(data):
        path.write_bytes(data)
        return read()

    return from_bytes


def decoder(codec):
    def read(data):
        shape = tuple(1 + each % 9 for each in data[:2])
        return codec.decode(data[3:], {"exponent": int.from_bytes(data[2:3], "little", signed=True)}, shape)

    return read


CODED = [IntQ(3, per="channel"), TopK(0.2), ProductQuantizer(1, 3), Fwq(3.0), SplitFC(6.0, 2)]


def encoded(codec):
    """Payloads that are none too wrong: of tensors that `decoder` may ask for, behind their shapes."""
    shapes = [(5, 3), (8, 9), (1, 1), (9, 9)]
    tensors = [np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in shapes]
    head = [bytes([shape[0] - 1, shape[1] - 1, 0]) for shape in shapes]
    return [start + bytes(codec.encode(tensor).payload) for start, tensor in zip(head, tensors, strict=True)]


def assignment():
    rate, patience = 0.1, 5.0
    return Assignment(
        trial="t", device="a", client=0, seed=1, batch_size=4, learning_rate=rate, codecs=Codecs(up=Fp8(), down=Raw()),
        augmentation=Augmentation(), patience_s=patience,
    )  # fmt: skip


class Dialogue:
    """A board in the middle of a conversation, that gets one message after the other; anew after each that it refuses."""

    def __init__(self):
        self._begin()

    def _begin(self):
        self._session, self._number = Session(Role.DEVICE, "t", "a", 2, 7), 0
        for header in (assignment(), Begin(trial="t", device="a", epoch=0, mode=Mode.EXCHANGE)):
            self._hear(encode(Message(header)))
        self._session.send(Message(Smashed(epoch=0, step=0, tensor=Tensor("raw", {}, (1,)), labels=b"")))

    def __call__(self, message):
        try:
            self._hear(message or b"x")
        except (MessageError, RemoteProtocolError):
            self._begin()
            raise

    def _hear(self, message):
        for chunk in split(message, 7, self._number):
            self._session.receive(chunk.pack(), 0.0)
        self._number += 1
        self._session.next_event()
        self._session.frames_to_send(1.0 * self._number)


def messages():
    tensor = Tensor("fp8", {"exponent": -3}, (2, 3, 4))
    headers = [
        Presence(trial="t", device="a", online=True, epoch=5, server=6, run=9, held=(Position(0, 4), Position(1, 2))),
        Begin(trial="t", device="a", epoch=1, mode=Mode.EXCHANGE, steps=3),
        Smashed(trial="t", device="a", epoch=0, step=2, tensor=tensor, labels=b"\0\1" * 2),
        Gradient(trial="t", device="a", epoch=0, step=2, tensor=tensor, loss=0.5, keep=True),
        Gradient(epoch=0, step=2, tensor=None, loss=0.5, shared=SharedRows(3, tensor)),
        Lacking(trial="t", device="a", number=3),
        Shared(),
        Weights(trial="t", device="a", epoch=0, steps=2, phases_s={"forward": 0.25}),
        assignment(),
        Keep(trial="t", device="a", position=Position(0, 4)),
        Kept(trial="t", device="a"),
        Settle(trial="t", device="a", idle_s=3.0),
        Settled(trial="t", device="a", usage=Usage(seconds=1.0, cpu_s=0.5), idle=Usage(seconds=3.0, cpu_s=0.0)),
        Serve(trial="t", device="a"),
        Query(trial="t", device="a", step=0, tensor=tensor),
        Scores(trial="t", device="a", step=0, shape=(2, 3)),
        Update(trial="t", device="a", signature=bytes(64)),
        Updated(trial="t", device="a", ok=False, reason="no"),
        End(trial="t", device="a", reason="done"),
    ]
    return [encode(Message(header, bytes(range(24)))) for header in headers]


def targets(folder, bundle, trial):
    """Every reader of foreign bytes; ``bundle`` and ``trial`` are files that are right."""
    like = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3)}
    frames = [chunk.pack() for number in range(4) for chunk in split(bytes(300), 7, number, 100)]
    both = parse(frames[0]).acknowledgement().pack() + frames[1]
    zipped, text, graph = folder / "b.zip", folder / "t.toml", (bundle / "backward.onnx").read_bytes()
    copy = folder / "copy"
    copy.mkdir()
    for path in bundle.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    import zipfile

    with zipfile.ZipFile(zipped, "w") as archive:
        for path in bundle.iterdir():
            archive.write(path, path.name)
    small = [bytes([2, 3, 1]) + bytes(12), bytes([2, 3, 1]) + bytes(24), bytes([2, 3, 1]) + bytes(48)]
    return {
        "frame": Target(parse_all, ChunkError, [*frames, both], 300),
        "link": Target(Reassembly(), (ChunkError, PeerStartedAnew), [*frames, both, reset(1)], 200),
        "audience": Target(Audience(7).receive, ChunkError, frames, 100),
        "session": Target(Dialogue(), (MessageError, RemoteProtocolError), messages(), 50),
        "message": Target(decode, MessageError, messages(), 250),
        "weights": Target(lambda data: decode_weights(data, like), MessageError, [encode_weights(like)], 50),
        "raw": Target(decoder(Raw()), CodecError, small, 50),
        "fp16": Target(decoder(Fp16()), CodecError, small, 40),
        "fp8": Target(decoder(Fp8()), CodecError, small, 40),
        **{codec.id: Target(decoder(codec), CodecError, encoded(codec), 20) for codec in CODED},
        "zstd": Target(
            lambda data: expand(data, 200), CodecError, [shrink(bytes(200)), shrink(bytes(range(100)) * 2)], 20
        ),
        "graph": Target(require_self_contained, UserError, [graph[:4000], graph], 14),
        "manifest": Target(
            file_reader(copy / "manifest.json", lambda: read_bundle(copy)),
            UserError,
            [(bundle / "manifest.json").read_bytes()],
            2,
        ),
        "zip": Target(
            file_reader(folder / "x.zip", lambda: read_bundle(folder / "x.zip")), UserError, [zipped.read_bytes()], 2
        ),
        "trial": Target(file_reader(text, lambda: read_trial(text)), UserError, [trial.read_bytes()], 2),
    }


def hangs(_signal, _frame):
    raise TimeoutError("it hangs")


def resident_mib():
    """The most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def feed(name, target, data):
    begun = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, 10 * LONGEST_S)  # a reader that hangs is ended with its input in sight
    try:
        target.read(data)
    except target.refusal:
        pass
    except BaseException as error:
        raise SystemExit(f"{name}: {type(error).__name__}: {error}\n{data.hex()}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if time.perf_counter() - begun > LONGEST_S:
        raise SystemExit(f"{name}: took {time.perf_counter() - begun:.1f} s\n{data.hex()}")


def campaign(folder, bundle, trial, inputs, seed, report=lambda line: None):
    """Feed that many inputs, of each reader its share; returns how many."""
    rng, fed, before = random.Random(seed), 0, resident_mib()
    signal.signal(signal.SIGALRM, hangs)
    for name, target in targets(folder, bundle, trial).items():
        begun = time.perf_counter()
        for path in sorted((SEEDS / name).glob("*")):
            feed(name, target, path.read_bytes())
        count = -(-inputs * target.share // 1000)
        for _ in range(count):
            feed(name, target, mutated(rng, rng.choice(target.examples)))
        fed += count
        mib = resident_mib() - before
        if mib > MOST_MIB:
            raise SystemExit(f"{name}: {mib:.0f} MiB more, the bound is {MOST_MIB}")
        report(f"{name:9} {count:10,} inputs, {time.perf_counter() - begun:6.1f} s, {mib:4.0f} MiB more at the most")
    return fed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    from cutlayer.demo import prepare
    from cutlayer_export import export_bundle

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder / "digits")
        trial = folder / "digits" / "trial.toml"
        export_bundle(read_trial(trial).recipe, folder / "client.bundle")
        fed = campaign(folder, folder / "client.bundle", trial, options.inputs, options.seed, print)
    print(f"{fed:,} inputs: every one taken, or refused by name, within {LONGEST_S:g} s")


if __name__ == "__main__":
    sys.exit(main())
