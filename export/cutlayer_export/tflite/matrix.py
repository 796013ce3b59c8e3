"""Matrix products, softmax and embeddings."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cutlayer_export.tflite.graph import Graph, Tensor
from cutlayer_export.tflite.values import Value, plain

__all__ = ["RULES"]

aten, ours = torch.ops.aten, torch.ops.cutlayer


def _product(graph: Graph, a: Value, b: Value) -> Value:
    return Value(_multiplied(graph, plain(graph, a), plain(graph, b)))


def _multiplied(graph: Graph, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply a (M, K) by b (K, N): a fully connected layer with b transposed, which it mostly is already."""
    return graph.linear(a, graph.transpose(b, (1, 0)), bias)


def _affine(graph: Graph, bias: Value, a: Value, b: Value, beta: float = 1, alpha: float = 1) -> Value:
    left, right = plain(graph, a), plain(graph, b)
    if alpha == beta == 1 and len(bias.shape) == 1:
        return Value(_multiplied(graph, left, right, bias.tensor))
    product = graph.scaled(_multiplied(graph, left, right), alpha)
    return Value(graph.plus(product, graph.scaled(plain(graph, bias), beta)))


def _batched(graph: Graph, a: Value, b: Value) -> Value:
    return Value(graph.product(plain(graph, a), plain(graph, b)))


def _embedding(graph: Graph, table: Value, indices: Value, *_: Any) -> Value:
    places = graph.cast(plain(graph, indices), "int32")
    shape = (*places.shape, table.shape[1])
    return Value(graph.add("GATHER", [table.tensor, places], shape, table.tensor.dtype, axis=0))


def _embedding_grad(graph: Graph, dy: Value, indices: Value, rows: int, padding_index: int) -> Value:
    size = graph.integers(rows, dy.shape[-1])
    return Value(_scattered(graph, dy, indices, padding_index, size, (rows, dy.shape[-1])))


def _scattered(
    graph: Graph, dy: Value, indices: Value, padding_index: int, size: Tensor, shape: Sequence[int]
) -> Tensor:
    width = dy.shape[-1]
    places = graph.reshape(graph.cast(plain(graph, indices), "int32"), (None, 1))
    updates = graph.reshape(plain(graph, dy), (None, width))
    if padding_index >= 0:
        kept = graph.binary("NOT_EQUAL", places, graph.integers(padding_index), "bool")
        updates = graph.times(updates, graph.cast(kept, "float32"))
    return graph.add("SCATTER_ND", [places, updates, size], shape)


def _embedding_grad_onto(graph: Graph, base: Value, dy: Value, indices: Value, padding_index: int) -> Value:
    size = graph.sizes(base.tensor)
    return Value(graph.plus(base.tensor, _scattered(graph, dy, indices, padding_index, size, base.shape)))


def _softmax(graph: Graph, x: Value, axis: int, _half: bool) -> Value:
    return _along(graph, x, axis, lambda each: graph.unary("SOFTMAX", each, beta=1.0))


def _log_softmax(graph: Graph, x: Value, axis: int, _half: bool) -> Value:
    def function(each: Tensor) -> Tensor:
        shifted = graph.minus(each, graph.reduce("REDUCE_MAX", each, [-1]))
        total = graph.reduce("SUM", graph.unary("EXP", shifted), [-1])
        return graph.minus(shifted, graph.unary("LOG", total))

    return _along(graph, x, axis, function)


def _along(graph: Graph, x: Value, axis: int, function: Callable[[Tensor], Tensor]) -> Value:
    """Apply a function of the last axis along another axis."""
    rank = len(x.shape)
    if x.images and axis % rank == 1:
        return Value(function(x.tensor), images=True)
    order: Sequence[int] = [*(each for each in range(rank) if each != axis % rank), axis % rank]
    moved = function(graph.transpose(plain(graph, x), order))
    return Value(graph.transpose(moved, [order.index(each) for each in range(rank)]))


RULES: dict[Any, Callable[..., Any]] = {
    aten._log_softmax.default: _log_softmax,  # noqa: SLF001
    aten._softmax.default: _softmax,  # noqa: SLF001
    aten.addmm.default: _affine,
    aten.bmm.default: _batched,
    aten.embedding.default: _embedding,
    aten.mm.default: _product,
    ours.embedding_grad.default: _embedding_grad,
    ours.embedding_grad_onto.default: _embedding_grad_onto,
}
