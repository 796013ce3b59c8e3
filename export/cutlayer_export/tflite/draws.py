"""Random draws of `graph.random_numbers` in signed 32-bit integers, the only ones that all runtimes multiply."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from cutlayer_export.tflite.graph import Graph, Tensor
from cutlayer_export.tflite.moving import samples
from cutlayer_export.tflite.shapes import entries
from cutlayer_export.tflite.values import Value

__all__ = ["RULES"]

_MAX = (1 << 31) - 1


def _bernoulli(graph: Graph, seed: Value, like: Value, probability: float, stream: int) -> Value:
    limit = _int32(graph, min(round(probability * 2**31), _MAX))
    drawn = _shifted(graph, _bits(graph, seed, like, stream), 1)
    return Value(graph.reshape(graph.cast(graph.binary("LESS", drawn, limit, "bool"), "float32"), like.shape))


def _uniform(graph: Graph, seed: Value, like: Value, stream: int) -> Value:
    drawn = _shifted(graph, _bits(graph, seed, like, stream), 9)
    odd = graph.cast(graph.plus(graph.plus(drawn, drawn), _int32(graph, 1)), "float32")
    return Value(graph.reshape(graph.times(odd, graph.constant(np.float32(2**-24))), like.shape))


def _bits(graph: Graph, seed: Value, like: Value, stream: int) -> Tensor:
    start = graph.plus(graph.cast(seed.tensor, "int32"), _int32(graph, stream * 0x85EBCA77))
    key = _mixed(graph, graph.plus(_mixed(graph, graph.reshape(start, (1, 1))), _int32(graph, 0x27D4EB2F)))
    number = entries(like.shape)
    counter = graph.constant(np.arange(abs(number))[None], "int32")
    if number < 0:
        first = graph.times(graph.cast(samples(graph), "int32"), _int32(graph, -number))
        counter = graph.plus(first, counter)
    return _mixed(graph, graph.plus(graph.times(counter, _int32(graph, 0x9E3779B1)), key))


def _mixed(graph: Graph, bits: Tensor) -> Tensor:
    """MurmurHash3's finalizer; products wrap."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = graph.times(_folded(graph, bits, shift), _int32(graph, factor))
    return _folded(graph, bits, 16)


def _folded(graph: Graph, bits: Tensor, shift: int) -> Tensor:
    return graph.binary("BITWISE_XOR", bits, _shifted(graph, bits, shift))


def _shifted(graph: Graph, bits: Tensor, shift: int) -> Tensor:
    """Shift right and bring zeros in: the runtime brings ones in where a number is negative, so they are removed."""
    moved = graph.add(
        "RIGHT_SHIFT", [bits, graph.constant(np.full([1] * len(bits.shape), shift), "int32")], bits.shape, "int32"
    )
    below = graph.cast(graph.binary("LESS", bits, _int32(graph, 0), "bool"), "int32")
    return graph.plus(moved, graph.times(below, _int32(graph, 1 << (32 - shift))))


def _int32(graph: Graph, value: int) -> Tensor:
    return graph.constant(np.array(value & 0xFFFFFFFF, np.uint32).view(np.int32), "int32")


RULES: dict[Any, Callable[..., Any]] = {
    torch.ops.cutlayer.bernoulli.default: _bernoulli,
    torch.ops.cutlayer.uniform.default: _uniform,
}
