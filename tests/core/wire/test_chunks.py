import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer_core.errors import ChunkError
from cutlayer_core.wire.chunks import HEADER_BYTES, MAX_MESSAGE_BYTES, Assembly, Kind, parse, parse_all, split


def frames_of(message, chunk_bytes=10):
    return [chunk.pack() for chunk in split(message, sender_epoch=7, message_id=3, chunk_bytes=chunk_bytes)]


def test_header_has_32_bytes_in_the_documented_order():
    frame = frames_of(b"hello")[0]
    assert HEADER_BYTES == 32
    assert frame[:28] == (
        b"CUTL" + b"\1" + b"\1" + b"\0\0" + (7).to_bytes(8, "little") + (3).to_bytes(4, "little")
        + b"\0\0" + b"\1\0" + (5).to_bytes(4, "little")
    )  # fmt: skip
    assert frame[28:32] == bytes.fromhex("e0795797")
    assert frame[32:] == b"hello"


@given(st.binary(min_size=1, max_size=500), st.integers(1, 120), st.randoms(use_true_random=False))
def test_chunks_in_any_order_with_repeats_give_the_message(message, chunk_bytes, order):
    frames = frames_of(message, chunk_bytes) * 2
    order.shuffle(frames)
    assembly = Assembly(parse(frames[0]))
    results = [assembly.add(parse(frame)) for frame in frames]
    assert next(result for result in results if result is not None) == message


def test_acknowledgement_echoes_what_it_answers_without_a_body():
    chunk = parse(frames_of(b"x" * 25)[1])
    answer = parse(chunk.acknowledgement().pack())
    assert answer.kind is Kind.ACK
    assert (answer.sender_epoch, answer.message_id, answer.index, answer.count) == (7, 3, 1, 3)
    assert bytes(answer.body) == b""


@given(st.binary(max_size=200))
def test_foreign_bytes_are_a_chunk_error(data):
    with pytest.raises(ChunkError):
        parse(data)


@pytest.mark.parametrize("position", range(48))
def test_any_flipped_bit_is_noticed(position):
    frame = bytearray(frames_of(b"0123456789abcdef", 16)[0])
    for bit in range(8):
        damaged = frame.copy()
        damaged[position] ^= 1 << bit
        with pytest.raises(ChunkError):
            parse(bytes(damaged))


def test_a_truncated_frame_is_noticed():
    frame = frames_of(b"0123456789")[0]
    for length in range(len(frame)):
        with pytest.raises(ChunkError):
            parse(frame[:length])


def forged(index=0, count=1, total=10, body=b"0123456789"):
    """A frame with a correct CRC-32 whose fields are ours to choose."""

    chunk = parse(frames_of(b"0123456789")[0])
    return msgspec.structs.replace(chunk, index=index, count=count, total_bytes=total, body=body).pack()


@pytest.mark.parametrize(
    "fields",
    [
        {"index": 1},
        {"count": 0},
        {"total": 0},
        {"total": MAX_MESSAGE_BYTES + 1},
        {"total": 11},
        {"total": 9},
        {"count": 2},
        {"count": 2, "total": 21},
        {"count": 3, "index": 2, "total": 35},
        {"count": 2, "index": 1, "total": 15},
        {"body": b""},
        {"count": 65535, "total": MAX_MESSAGE_BYTES},
    ],
)
def test_contradictory_fields_are_a_chunk_error(fields):
    with pytest.raises(ChunkError):
        parse(forged(**fields))


def test_chunks_that_disagree_on_the_message_are_refused():
    first = parse(frames_of(b"a" * 25)[0])
    other = parse(frames_of(b"a" * 28)[1])
    with pytest.raises(ChunkError, match="contradicts"):
        Assembly(first).add(other)


@pytest.mark.parametrize("length", [0, MAX_MESSAGE_BYTES + 1])
def test_a_message_that_cannot_travel_is_refused_at_once(length):
    with pytest.raises(ValueError, match="cannot be sent"):
        list(split(bytes(length), 0, 0))


def test_parsing_random_mutations_never_does_anything_but_raise_or_return():
    generator = random.Random(0)
    frame = frames_of(b"0123456789" * 5)[2]
    for _ in range(5000):
        mutated = bytearray(frame)
        for _ in range(generator.randint(1, 8)):
            mutated[generator.randrange(len(mutated))] = generator.randrange(256)
        try:
            parse(bytes(mutated[: generator.randint(0, len(mutated))]))
        except ChunkError:
            continue


def test_a_frame_may_begin_with_chunks_that_have_no_body():
    data = frames_of(b"x" * 25)[0]
    first, second = (parse(frame).acknowledgement().pack() for frame in frames_of(b"y" * 15))
    assert [chunk.kind for chunk in parse_all(first + second + data)] == [Kind.ACK, Kind.ACK, Kind.DATA]
    assert [chunk.index for chunk in parse_all(first + second)] == [0, 1]
    for frame in (data + first, first * 9 + data, first + b"x", first + data[:-1]):
        with pytest.raises(ChunkError):
            parse_all(frame)
