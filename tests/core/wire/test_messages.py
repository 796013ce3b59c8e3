import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer_core.codecs import Codecs, Fp8, Raw
from cutlayer_core.errors import MessageError
from cutlayer_core.schedules import Mode
from cutlayer_core.wire import messages, weights
from cutlayer_core.wire.messages import (
    Assignment,
    Augmentation,
    Begin,
    End,
    Gradient,
    Message,
    Presence,
    Smashed,
    Tensor,
    Weights,
)

TENSOR = Tensor("fp8", {"exponent": -3}, (4, 16, 4, 4))
HEADERS = [
    Presence(trial="t", device="d", online=True, epoch=2**62, samples=10, bundle="ab", engine="onnx"),
    Assignment(
        client=0, seed=1, batch_size=32, learning_rate=0.1, codecs=Codecs(up=Fp8("e5m2"), down=Raw()),
        augmentation=Augmentation(flip=True, crop=2), patience_s=3.0,
    ),
    Begin(epoch=3, mode=Mode.FORWARD),
    Smashed(epoch=1, step=2, tensor=TENSOR, labels=b"\1\0"),
    Gradient(epoch=1, step=2, tensor=TENSOR, loss=0.5),
    Weights(epoch=1, steps=9, phases_s={"forward": 0.25}),
    End(reason="done"),
]  # fmt: skip


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: type(header).__name__)
def test_every_message_survives_the_wire(header):
    message = Message(header, b"payload")
    assert messages.decode(messages.encode(message)) == message


def test_a_header_is_small():
    assert len(messages.encode(Message(HEADERS[3]))) < 128


@given(st.binary(max_size=300))
def test_foreign_bytes_are_a_message_error(data):
    with pytest.raises(MessageError):
        messages.decode(data)


def with_header(**fields):
    header = msgspec.msgpack.encode(fields)
    return len(header).to_bytes(4, "little") + header


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "unheard of"},
        {"kind": "end"},
        {"kind": "end", "reason": 3},
        {"kind": "end", "reason": "x", "extra": 1},
        {"kind": "begin", "epoch": -1, "mode": "exchange"},
        {"kind": "begin", "epoch": 0, "mode": "sideways"},
        {"kind": "smashed", "epoch": 0, "step": 0, "labels": b"", "tensor": ["fp8", {}, [0, 3]]},
    ],
)
def test_a_header_with_a_wrong_field_is_a_message_error(fields):
    with pytest.raises(MessageError, match="cannot be read"):
        messages.decode(with_header(**fields))


def test_a_header_longer_than_the_message_is_not_read():
    with pytest.raises(MessageError, match="cannot hold"):
        messages.decode((1000).to_bytes(4, "little") + b"{}")


def test_deep_nesting_is_a_message_error():
    bomb = b"\x91" * 100_000
    with pytest.raises(MessageError):
        messages.decode(len(bomb).to_bytes(4, "little") + bomb)


WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(4, np.int64)}


def test_weights_survive_the_wire_bit_for_bit():
    found = weights.decode_weights(weights.encode_weights(WEIGHTS), like=WEIGHTS)
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in WEIGHTS.items()
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"a": WEIGHTS["a"]},
        {**WEIGHTS, "b": WEIGHTS["n"]},
        {**WEIGHTS, "a": WEIGHTS["a"].T},
        {**WEIGHTS, "a": WEIGHTS["a"].astype(np.float64)},
    ],
)
def test_weights_of_another_client_are_a_message_error(wrong):
    with pytest.raises(MessageError, match="client weight"):
        weights.decode_weights(weights.encode_weights(wrong), like=WEIGHTS)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_no_weights(data):
    with pytest.raises(MessageError):
        weights.decode_weights(data, like=WEIGHTS)
