"""Inverse trigonometric functions, which TFLite does not have, from operations that every runtime has."""

import math
from collections.abc import Callable
from typing import Any

import torch

from cutlayer_export.tflite.graph import Graph, Tensor
from cutlayer_export.tflite.values import Value, aligned

__all__ = ["RULES"]

aten = torch.ops.aten
_STEEP, _FLAT = math.tan(3 * math.pi / 8), math.tan(math.pi / 8)
_SERIES = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)


def _atan(graph: Graph, x: Tensor) -> Tensor:
    """Moshier, Cephes Mathematical Library, atanf: within 2e-7 of the angle.

    An angle is reduced to at most an eighth of a turn's half, where a polynomial in its tangent's square is near enough.
    """
    one, zero = graph.constant(1.0), graph.constant(0.0)
    size = graph.unary("ABS", x)
    steep = graph.binary("GREATER", size, graph.constant(_STEEP), "bool")
    middle = graph.binary("GREATER", size, graph.constant(_FLAT), "bool")
    inverse = graph.unary("NEG", graph.binary("DIV", one, graph.binary("MAXIMUM", size, one)))
    turned = graph.binary("DIV", graph.minus(size, one), graph.plus(size, one))
    tangent = graph.choose(steep, inverse, graph.choose(middle, turned, size))
    start = graph.choose(
        steep, graph.constant(math.pi / 2), graph.choose(middle, graph.constant(math.pi / 4), graph.scaled(size, 0.0))
    )
    square = graph.times(tangent, tangent)
    series = graph.scaled(square, _SERIES[0])
    for factor in _SERIES[1:]:
        series = graph.times(graph.plus(series, graph.constant(factor)), square)
    angle = graph.plus(start, graph.plus(tangent, graph.times(series, tangent)))
    return graph.choose(graph.binary("LESS", x, zero, "bool"), graph.unary("NEG", angle), angle)


def _asin(graph: Graph, x: Tensor) -> Tensor:
    one = graph.constant(1.0)
    beside = graph.unary("SQRT", graph.times(graph.minus(one, x), graph.plus(one, x)))
    return _atan(graph, graph.binary("DIV", x, graph.binary("MAXIMUM", beside, graph.constant(1e-30))))


def _acos(graph: Graph, x: Tensor) -> Tensor:
    return graph.minus(graph.constant(math.pi / 2), _asin(graph, x))


def _atan2(graph: Graph, y: Value, x: Value) -> Value:
    (rise, run), last = aligned(graph, [y, x])
    zero = graph.constant(0.0)
    level = graph.binary("EQUAL", run, zero, "bool")
    steps = graph.binary("DIV", rise, graph.choose(level, graph.constant(1.0), run))
    up = graph.binary("LESS", rise, zero, "bool")
    half = graph.choose(up, graph.constant(-math.pi), graph.constant(math.pi))
    angle = _atan(graph, steps)
    angle = graph.choose(graph.binary("LESS", run, zero, "bool"), graph.plus(angle, half), angle)
    upright = graph.choose(graph.binary("EQUAL", rise, zero, "bool"), zero, graph.scaled(half, 0.5))
    return Value(graph.choose(level, upright, angle), last)


def _rule(function: Callable[[Graph, Tensor], Tensor]) -> Callable[..., Value]:
    return lambda graph, x: Value(function(graph, x.tensor), x.images)


RULES: dict[Any, Callable[..., Any]] = {
    aten.acos.default: _rule(_acos),
    aten.asin.default: _rule(_asin),
    aten.atan.default: _rule(_atan),
    aten.atan2.default: _atan2,
}
