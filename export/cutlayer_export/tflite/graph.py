"""A TFLite graph under construction: tensors, and operations on them that know the shapes of their results.

A size is a whole number. For the dimension that holds the batch it is negative: minus the number of entries per sample.
So (-1, 3, 32, 32) is a batch of images, and (-64, 128) a batch of 64 tokens each with batch and tokens merged into one
dimension. Images are stored as the runtime wants them: (B, H, W, C).

Equal operations on equal inputs give the same tensor, so nothing is computed twice, and operations on constants that
only move their entries are done here.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutlayer_export.tflite.folding import folded
from cutlayer_export.tflite.shapes import broadcast, entries

__all__ = ["Graph", "Operation", "Tensor"]

_MOST_AXES = 6
"""Most axes of a tensor that the runtimes' kernels take; only a reshape takes more."""
_AXES, _JOINED = 4, 5
"""Most axes of a tensor that all runtimes broadcast; most tensors that XNNPACK concatenates at once."""


class Tensor:
    """A value of the graph; equal only to itself.

    Attributes:
        shape: its sizes.
        dtype: its type, by numpy's name.
        data: its values if it is a constant, else None.
        name: of an input or output of the graph, else empty.
    """

    __slots__ = ("data", "dtype", "name", "shape")

    def __init__(self, shape: Sequence[int], dtype: str, data: NDArray[Any] | None = None, name: str = "") -> None:
        self.shape, self.dtype, self.data, self.name = tuple(shape), dtype, data, name


class Operation(NamedTuple):
    """One builtin operation of the runtime, see `file.KINDS`."""

    kind: str
    inputs: tuple[Tensor | None, ...]
    output: Tensor
    options: dict[str, Any]


class Graph:
    """Operations in the order in which they were added.

    Args:
        delegated: whether the runtime hands operations to XNNPACK, so that the graph should use those it is fast at.

    Attributes:
        delegated: the same.
        inputs: by name.
        outputs: by name.
        operations: each after those whose results it reads.
    """

    def __init__(self, delegated: bool) -> None:
        self.delegated = delegated
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.operations: list[Operation] = []
        self._known: dict[Any, Tensor] = {}
        self._viewed: dict[Tensor, Tensor] = {}

    def like(self) -> "Graph":
        """A graph with the same inputs and outputs and no operations."""
        other = Graph(self.delegated)
        other.inputs, other.outputs = dict(self.inputs), dict(self.outputs)
        return other

    def input(self, name: str, shape: Sequence[int], dtype: str) -> Tensor:
        """Add an input."""
        self.inputs[name] = tensor = Tensor(shape, dtype, name=name)
        return tensor

    def add(
        self, kind: str, inputs: Iterable[Tensor | None], shape: Sequence[int], dtype: str = "float32", **options: Any
    ) -> Tensor:
        """Add an operation, unless there is an equal one, and return its result."""
        taken = tuple(inputs)
        rank = max(len(each) for each in (shape, *(each.shape for each in taken if each is not None)))
        if rank > _MOST_AXES and kind != "RESHAPE":
            raise NotImplementedError(f"a tensor of {rank} dimensions, where up to {_MOST_AXES} can be computed with")
        key = (kind, tuple(map(id, taken)), tuple(options.items()), dtype)
        if key not in self._known and (known := folded(kind, taken, options)) is not None:
            self._known[key] = self.constant(known, dtype)
        if key not in self._known:
            self._known[key] = Tensor(shape, dtype)
            self.operations.append(Operation(kind, taken, self._known[key], options))
        return self._known[key]

    def constant(self, values: Any, dtype: str = "float32") -> Tensor:
        """A tensor of values that are known now."""
        array = np.ascontiguousarray(values, dtype)
        array = array.reshape(np.shape(values))  # numpy gives a scalar an axis
        key = (array.tobytes(), array.shape, dtype)
        return self._known.setdefault(key, Tensor(array.shape, dtype, array))

    def integers(self, *values: int) -> Tensor:
        """A constant vector of int32."""
        return self.constant(values, "int32")

    # Elementwise operations.

    def unary(self, kind: str, x: Tensor, **options: Any) -> Tensor:
        """An elementwise operation on one tensor, such as EXP or RELU."""
        return self.add(kind, [x], x.shape, x.dtype, **options)

    def binary(self, kind: str, a: Tensor, b: Tensor, dtype: str = "") -> Tensor:
        """An elementwise operation on two tensors, such as MAXIMUM or GREATER, with broadcasting.

        More than four axes are merged into two: version 2.14 ends its process where it has to broadcast along a fifth.
        """
        return self._entries(kind, [a, b], dtype or a.dtype)

    def choose(self, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The entries of a where the condition is true, else those of b, with broadcasting as in `binary`."""
        return self._entries("SELECT_V2", [condition, a, b], a.dtype)

    def _entries(self, kind: str, inputs: Sequence[Tensor], dtype: str) -> Tensor:
        shape = broadcast(*(each.shape for each in inputs))
        if len(shape) > _AXES and all(each.shape in (shape, ()) for each in inputs):
            rows = [self.reshape(each, (None, shape[-1])) if each.shape else each for each in inputs]
            return self.reshape(self._entries(kind, rows, dtype), shape)
        return self.add(kind, inputs, shape, dtype)

    def plus(self, a: Tensor, b: Tensor) -> Tensor:
        """The sum."""
        return self.binary("ADD", a, b)

    def minus(self, a: Tensor, b: Tensor) -> Tensor:
        """The difference; where b is broadcast, computed as a plus -b, for which version 2.14 has a faster kernel."""
        if b.dtype == "float32" and b.shape != a.shape and broadcast(a.shape, b.shape) == a.shape and b.data is None:
            return self.plus(a, self.unary("NEG", b))
        return self.binary("SUB", a, b)

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """The elementwise product."""
        return self.binary("MUL", a, b)

    def scaled(self, a: Tensor, factor: float) -> Tensor:
        """The tensor times a number."""
        return a if factor == 1 else self.times(a, self.constant(factor))

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        """The tensor converted to another type."""
        return x if x.dtype == dtype else self.add("CAST", [x], x.shape, dtype, source=x.dtype, target=dtype)

    # Operations that move entries.

    def reshape(self, x: Tensor, wanted: Sequence[int | None]) -> Tensor:
        """The same entries in another shape, of which one size may be None."""
        known = math.prod(size for size in wanted if size is not None)
        shape = [entries(x.shape) // known if size is None else size for size in wanted]
        if tuple(shape) == x.shape:
            return x
        if entries(shape) != entries(x.shape):
            raise NotImplementedError(f"a view of {x.shape} as {tuple(shape)}")
        if x.data is not None:
            return self.constant(x.data.reshape(shape), x.dtype)
        x = self._viewed.get(x, x)
        if tuple(shape) == x.shape:
            return x
        result = self.add("RESHAPE", [x, self.integers(*(max(size, -1) for size in shape))], shape, x.dtype)
        self._viewed[result] = x
        return result

    def copy(self, x: Tensor) -> Tensor:
        """The same entries as a new tensor."""
        result = Tensor(x.shape, x.dtype)
        sizes = self.integers(*(max(size, -1) for size in x.shape))
        self.operations.append(Operation("RESHAPE", (x, sizes), result, {}))
        return result

    def transpose(self, x: Tensor, order: Sequence[int]) -> Tensor:
        """Axes in another order; a reshape where only axes of size 1 move."""
        shape = [x.shape[axis] for axis in order]
        moving = [axis for axis in order if x.shape[axis] != 1]
        if moving == sorted(moving):
            return self.reshape(x, shape)
        if x.data is not None:
            return self.constant(x.data.transpose(order), x.dtype)
        return self.add("TRANSPOSE", [x, self.integers(*order)], shape, x.dtype)

    def pad(self, x: Tensor, margins: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
        """Pad with a margin before and after along each axis."""
        if not any(map(any, margins)):
            return x
        shape = [size + sum(margin) if any(margin) else size for size, margin in zip(x.shape, margins, strict=True)]
        widths = self.constant(margins, "int32")
        if value == 0:
            return self.add("PAD", [x, widths], shape, x.dtype)
        return self.add("PADV2", [x, widths, self.constant(value, x.dtype)], shape, x.dtype)

    def slice(
        self, x: Tensor, starts: Sequence[int], stops: Sequence[int | None], steps: Sequence[int] | None = None
    ) -> Tensor:
        """The entries from starts up to, but without, stops; None is the end, and the only stop for the batch.

        Never by SLICE, which keeps the batch size with which it was first prepared.
        """
        for axis, step in enumerate(steps or []):
            if step > 1:
                x = self._every(x, axis, starts[axis], stops[axis] or x.shape[axis], step)
                starts, stops = _without(starts, axis, 0), _without(stops, axis, None)
        shape = [
            size if stop is None and start == 0 else (size if stop is None else stop) - start
            for size, start, stop in zip(x.shape, starts, stops, strict=True)
        ]
        if tuple(shape) == x.shape:
            return x
        ends = sum(1 << axis for axis, stop in enumerate(stops) if stop is None)
        bounds = [self.integers(*each) for each in (starts, (stop or 0 for stop in stops), [1] * len(shape))]
        return self.add("STRIDED_SLICE", [x, *bounds], shape, x.dtype, ends=ends)

    def _every(self, x: Tensor, axis: int, start: int, stop: int, step: int) -> Tensor:
        """Every step-th entry of an axis, taken from groups of that size, since XNNPACK slices only without steps."""
        groups, place = -(-(stop - start) // step), start % step
        first, behind, before = start - place, x.shape[axis + 1 :], x.shape[:axis]
        missing = max(first + groups * step - x.shape[axis], 0)
        x = self.pad(x, [(0, missing if each == axis else 0) for each in range(len(x.shape))])
        at = [first if each == axis else 0 for each in range(len(x.shape))]
        ends = [first + groups * step if each == axis else None for each in range(len(x.shape))]
        grouped = self.reshape(self.slice(x, at, ends), (None, step, entries(behind)))
        chosen = self.slice(grouped, [0, place, 0], [None, place + 1, None])
        return self.reshape(chosen, (*before, groups, *behind))

    def concatenate(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """Concatenate a few at a time: XNNPACK takes no more, and an operation it does not take splits the graph."""
        if len(parts) == 1:
            return parts[0]
        if len(parts) > _JOINED:
            groups = [parts[at : at + _JOINED] for at in range(0, len(parts), _JOINED)]
            return self.concatenate([self.concatenate(each, axis) for each in groups], axis)
        shape = list(parts[0].shape)
        axis %= len(shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.add("CONCATENATION", parts, shape, parts[0].dtype, axis=axis)

    # Reductions and products.

    def reduce(self, kind: str, x: Tensor, axes: Sequence[int], keep: bool = True) -> Tensor:
        """SUM, MEAN or REDUCE_MAX over axes."""
        axes = sorted(axis % len(x.shape) for axis in axes)
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes]
        return self.add(kind, [x, self.integers(*axes)], shape, x.dtype, keep=keep)

    def batch(self) -> Tensor:
        """How many samples x holds, as a float32 scalar.

        XNNPACK cannot ask a tensor for its size. Left to the runtime, that question would make everything that does not
        depend on the answer run first and stay in memory, so for XNNPACK the samples are counted by a sum of ones.
        """
        x = self.inputs["x"]
        if self.delegated and x.dtype == "float32":
            first = self.slice(x, [0] * len(x.shape), [None, *[1] * (len(x.shape) - 1)])
            ones = self.plus(self.scaled(first, 0.0), self.constant(1.0))
            return self.reduce("SUM", ones, range(len(x.shape)), keep=False)
        return self.reshape(self.cast(self.slice(self.sizes(x), [0], [1]), "float32"), ())

    def sizes(self, x: Tensor) -> Tensor:
        """The sizes of x as int32."""
        if min(x.shape, default=0) >= 0:
            return self.integers(*x.shape)
        return self.add("SHAPE", [x], (len(x.shape),), "int32", result="int32")

    def product(self, a: Tensor, b: Tensor, turn_b: bool = False) -> Tensor:
        """Matrix product of the last two dimensions; ``turn_b`` transposes b."""
        rows, columns = a.shape[-2], b.shape[-2 if turn_b else -1]
        shape = (*broadcast(a.shape[:-2], b.shape[:-2]), rows, columns) if len(a.shape) > 2 else (rows, columns)
        return self.add("BATCH_MATMUL", [a, b], shape, turn_b=turn_b)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """A linear layer: (rows, I) times a weight (O, I) transposed, plus a bias (O,).

        XNNPACK has no kernel for a fully connected layer whose weights are not in the file, but has one for a product.
        """
        if weight.data is not None or not self.delegated:
            return self.add("FULLY_CONNECTED", [x, weight, bias], (x.shape[0], weight.shape[0]))
        product = self.product(x, weight, turn_b=True)
        return product if bias is None else self.plus(product, bias)


def _without(values: Sequence[Any], axis: int, neutral: Any) -> list[Any]:
    return [neutral if each == axis else value for each, value in enumerate(values)]
