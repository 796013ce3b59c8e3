"""TFLite files: a graph as the flatbuffer that a runtime loads.

Numbers are those of the schema (tensorflow/lite/schema/schema.fbs, version 3). Fields and operations are only ever
added to it, so the tables needed are simply written down here. Every operation has version 1, which the oldest runtimes
know.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flatbuffers
import numpy as np

from cutlayer_export.tflite.graph import Graph, Operation, Tensor

__all__ = ["ACTIVATIONS", "KINDS", "SCHEMA_VERSION", "File", "Kind", "to_file"]

_TYPES = {"float32": 0, "float16": 1, "int32": 2, "int64": 4, "bool": 6}
SCHEMA_VERSION = 3
_IDENTIFIER, _ALIGNMENT = b"TFL3", 16
_LAST_OLD_CODE = 127
"""Older runtimes read a one-byte code, which holds this value if the real code is greater."""


class Kind(NamedTuple):
    """An operation of the runtime.

    Attributes:
        code: its number in the schema's BuiltinOperator.
        options: the number of its options table in the schema's union BuiltinOptions, 0 if it has none.
        fields: of that table: our name, slot, and type (B: bool, b: byte, f: float32, i: int32, t: a tensor type).
    """

    code: int
    options: int = 0
    fields: tuple[tuple[str, int, str], ...] = ()


ACTIVATIONS = {"RELU": 1, "RELU6": 3}
"""Activations that some operations can apply to their result, with numbers of the schema's ActivationFunctionType."""
_SWEEP = (("padding", 0, "b"), ("stride_width", 1, "i"), ("stride_height", 2, "i"))
_POOL = Kind(17, 5, (*_SWEEP, ("window_width", 3, "i"), ("window_height", 4, "i"), ("activation", 5, "b")))
_ENTRIES = (("activation", 0, "b"),)
_REDUCE = (("keep", 0, "B"),)
KINDS: dict[str, Kind] = {
    "ABS": Kind(101),
    "ADD": Kind(0, 11, _ENTRIES),
    "ARG_MAX": Kind(56, 40, (("places", 0, "t"),)),
    "ARG_MIN": Kind(79, 57, (("places", 0, "t"),)),
    "AVERAGE_POOL_2D": _POOL._replace(code=1),
    "BATCH_MATMUL": Kind(126, 101, (("turn_b", 1, "B"),)),
    "BITWISE_XOR": Kind(160, 125),
    "CAST": Kind(53, 37, (("source", 0, "t"), ("target", 1, "t"))),
    "CEIL": Kind(104),
    "CONCATENATION": Kind(2, 10, (("axis", 0, "i"),)),
    "CONV_2D": Kind(3, 1, (*_SWEEP, ("activation", 3, "b"), ("dilation_width", 4, "i"), ("dilation_height", 5, "i"))),
    "COS": Kind(108),
    "CUMSUM": Kind(128, 102, (("exclusive", 0, "B"), ("reverse", 1, "B"))),
    "DEPTHWISE_CONV_2D": Kind(
        4,
        2,
        (
            *_SWEEP,
            ("multiplier", 3, "i"),
            ("activation", 4, "b"),
            ("dilation_width", 5, "i"),
            ("dilation_height", 6, "i"),
        ),
    ),
    "DEQUANTIZE": Kind(6),
    "DIV": Kind(42, 29),
    "EQUAL": Kind(71),
    "EXP": Kind(47),
    "FLOOR": Kind(8),
    "FLOOR_MOD": Kind(95, 72),
    "FULLY_CONNECTED": Kind(9, 8, _ENTRIES),
    "GATHER": Kind(36, 23, (("axis", 0, "i"),)),
    "GREATER": Kind(61),
    "GREATER_EQUAL": Kind(62),
    "LESS": Kind(58),
    "LESS_EQUAL": Kind(63),
    "LOG": Kind(73),
    "LOGICAL_AND": Kind(86),
    "LOGICAL_NOT": Kind(87),
    "LOGICAL_OR": Kind(84),
    "LOGISTIC": Kind(14),
    "MAXIMUM": Kind(55),
    "MAX_POOL_2D": _POOL,
    "MEAN": Kind(40, 27, _REDUCE),
    "MINIMUM": Kind(57),
    "MUL": Kind(18, 21),
    "NEG": Kind(59),
    "NOT_EQUAL": Kind(72),
    "PAD": Kind(34),
    "PADV2": Kind(60),
    "POW": Kind(78),
    "REDUCE_ANY": Kind(91, 27, _REDUCE),
    "REDUCE_MAX": Kind(82, 27, _REDUCE),
    "REDUCE_MIN": Kind(89, 27, _REDUCE),
    "RELU": Kind(19),
    "RELU6": Kind(21),
    "RESHAPE": Kind(22),
    "REVERSE_V2": Kind(105),
    "RIGHT_SHIFT": Kind(161, 126),
    "ROUND": Kind(116),
    "RSQRT": Kind(76),
    "SCATTER_ND": Kind(122),
    "SELECT_V2": Kind(123),
    "SHAPE": Kind(77, 55, (("result", 0, "t"),)),
    "SIN": Kind(66),
    "SOFTMAX": Kind(25, 9, (("beta", 0, "f"),)),
    "SQRT": Kind(75),
    "STRIDED_SLICE": Kind(45, 32, (("begins", 0, "i"), ("ends", 1, "i"))),
    "SUB": Kind(41, 28, _ENTRIES),
    "SUM": Kind(74, 27, _REDUCE),
    "TANH": Kind(28),
    "TRANSPOSE": Kind(39),
}
"""The operations that graphs may have, by the schema's names."""


class File(NamedTuple):
    """A file, and the offset in bytes at which the data of each constant begin in it."""

    content: bytes
    offsets: dict[Tensor, int]


def to_file(graph: Graph, name: str) -> File:
    """Write ``graph`` as a file."""
    return _Writer(graph, name).write()


class _Writer:
    def __init__(self, graph: Graph, name: str) -> None:
        self._graph, self._name = graph, name
        self._builder = flatbuffers.Builder(1 << 16)
        self._kinds = {kind: at for at, kind in enumerate(dict.fromkeys(each.kind for each in graph.operations))}
        read = [each for operation in graph.operations for each in operation.inputs if each is not None]
        made = [operation.output for operation in graph.operations]
        self._tensors = {
            tensor: at
            for at, tensor in enumerate(dict.fromkeys([*graph.inputs.values(), *read, *made, *graph.outputs.values()]))
        }
        self._ends: dict[Tensor, int] = {}

    def write(self) -> File:
        constants = [tensor for tensor in self._tensors if tensor.data is not None]
        buffers = [self._table([]), *(self._buffer(tensor) for tensor in constants)]
        places = {tensor: at for at, tensor in enumerate(constants, 1)}
        tensors = self._offsets(self._tensor(tensor, places.get(tensor, 0)) for tensor in self._tensors)
        operations = self._offsets(map(self._operation, self._graph.operations))
        inputs, outputs = (
            self._vector([self._tensors[each] for each in side.values()])
            for side in (self._graph.inputs, self._graph.outputs)
        )
        name = self._builder.CreateString(self._name)
        parts = [(0, "o", tensors), (1, "o", inputs), (2, "o", outputs), (3, "o", operations), (4, "o", name)]
        graphs = self._offsets([self._table(parts)])
        codes, held = self._offsets(map(self._code, self._kinds)), self._offsets(buffers)
        description = self._builder.CreateString("cutlayer")
        fields = [(0, "u", SCHEMA_VERSION), (1, "o", codes), (2, "o", graphs), (3, "o", description), (4, "o", held)]
        fields.append((7, "o", self._offsets([self._signature()])))
        self._builder.Finish(self._table(fields), _IDENTIFIER)
        content = bytes(self._builder.Output())
        return File(content, {tensor: len(content) - end for tensor, end in self._ends.items()})

    def _signature(self) -> int:
        """Input and output names for callers that use the graph as a function; our engine goes by tensor names."""
        inputs, outputs = (
            self._offsets(
                self._table([(0, "o", self._builder.CreateString(name)), (1, "u", self._tensors[tensor])])
                for name, tensor in side.items()
            )
            for side in (self._graph.inputs, self._graph.outputs)
        )
        return self._table([(0, "o", inputs), (1, "o", outputs), (2, "o", self._builder.CreateString(self._name))])

    def _buffer(self, tensor: Tensor) -> int:
        assert tensor.data is not None
        data = tensor.data.tobytes()
        builder = self._builder
        builder.StartVector(1, len(data), _ALIGNMENT)
        builder.head -= len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data
        self._ends[tensor] = builder.Offset()
        return self._table([(0, "o", builder.EndVector())])

    def _tensor(self, tensor: Tensor, buffer: int) -> int:
        name = self._builder.CreateString(tensor.name or f"{'c' if buffer else 't'}{self._tensors[tensor]}")
        fields = [(0, "o", self._vector([abs(size) for size in tensor.shape])), (1, "b", _TYPES[tensor.dtype])]
        fields += [(2, "u", buffer), (3, "o", name)]
        # For inputs only: version 2.14 would conclude that other tensors have shapes that are known at run time only.
        if tensor.name in self._graph.inputs and min(tensor.shape, default=0) < 0:
            fields.append((7, "o", self._vector([max(size, -1) for size in tensor.shape])))
        return self._table([*fields, (8, "B", True)])

    def _operation(self, operation: Operation) -> int:
        kind = KINDS[operation.kind]
        inputs = self._vector([-1 if each is None else self._tensors[each] for each in operation.inputs])
        fields = [(0, "u", self._kinds[operation.kind]), (1, "o", inputs)]
        fields.append((2, "o", self._vector([self._tensors[operation.output]])))
        if kind.options:
            given = [
                (slot, "b", _TYPES[operation.options[name]]) if how == "t" else (slot, how, operation.options[name])
                for name, slot, how in kind.fields
                if name in operation.options
            ]
            fields += [(3, "y", kind.options), (4, "o", self._table(given))]
        return self._table(fields)

    def _code(self, name: str) -> int:
        code = KINDS[name].code
        return self._table([(0, "b", min(code, _LAST_OLD_CODE)), (2, "i", 1), (3, "i", code)])

    def _vector(self, values: Sequence[int]) -> int:
        offset: int = self._builder.CreateNumpyVector(np.asarray(values, np.int32))
        return offset

    def _offsets(self, each: Any) -> int:
        offsets = list(each)
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        result: int = self._builder.EndVector()
        return result

    def _table(self, fields: Sequence[tuple[int, str, Any]]) -> int:
        """A table with these fields (slot, type, value); all that may be zero have zero as their default."""
        builder = self._builder
        put = {
            "o": builder.PrependUOffsetTRelativeSlot,
            "i": builder.PrependInt32Slot,
            "u": builder.PrependUint32Slot,
            "b": builder.PrependInt8Slot,
            "y": builder.PrependUint8Slot,
            "B": builder.PrependBoolSlot,
            "f": builder.PrependFloat32Slot,
        }
        builder.StartObject(1 + max((slot for slot, *_ in fields), default=0))
        for slot, how, value in fields:
            put[how](slot, value, 0)
        result: int = builder.EndObject()
        return result
