"""Inspects an ONNX file before the runtime gets it: all of its data must be inside.

An ONNX tensor may name another file that holds its data, which a runtime would open. A board has no `onnx` package, so
this follows the few fields that matter through the protocol-buffers wire format
(https://protobuf.dev/programming-guides/encoding, field numbers from onnx.proto3).
"""

from collections.abc import Iterator

from cutlayer_core.errors import UserError

__all__ = ["require_self_contained"]

_MAX_DEPTH = 16
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DATA_LOCATION, _EXTERNAL_DATA = 14, 13
_TENSOR = "tensor"
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
"""By kind of message, the fields whose messages may hold a tensor."""


def require_self_contained(model: bytes) -> None:
    """Raise `UserError` unless ``model`` can be an ONNX file whose tensors are all inside it."""
    try:
        _walk(memoryview(model), "model", 0)
    except UserError:
        raise
    except (IndexError, ValueError) as error:
        raise UserError(f"the bundle holds a graph that is no ONNX file: {error}") from error


def _walk(message: memoryview, kind: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    for number, value in _fields(message):
        if kind == _TENSOR and number in (_DATA_LOCATION, _EXTERNAL_DATA) and value:
            raise UserError("the bundle holds a graph whose data are in another file: export it again")
        inside = _INSIDE[kind].get(number)
        if inside is not None and isinstance(value, memoryview):
            _walk(value, inside, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers with their values: bytes as they are, fixed-size numbers as 0."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif wire == _BYTES:
            length, at = _varint(message, at)
            if length > len(message) - at:
                raise ValueError("it is truncated")
            yield number, message[at : at + length]
            at += length
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
            yield number, 0
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")
