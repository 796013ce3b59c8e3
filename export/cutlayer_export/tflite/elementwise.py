"""Elementwise operations."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from cutlayer_export.tflite.graph import Graph, Tensor
from cutlayer_export.tflite.values import Value, aligned, scalar, valued

__all__ = ["RULES", "positive"]

aten, ours = torch.ops.aten, torch.ops.cutlayer
_HUGE = 1e30


def _unary(kind: str) -> Callable[..., Value]:
    return lambda graph, x: Value(graph.unary(kind, _floating(graph, x.tensor)), x.images)


def _floating(graph: Graph, x: Tensor) -> Tensor:
    return x if x.dtype.startswith("float") else graph.cast(x, "float32")


def _composed(function: Callable[..., Tensor]) -> Callable[..., Value]:
    """Make a rule of a function of a tensor and numbers."""
    return lambda graph, x, *numbers: Value(function(graph, x.tensor, *numbers), x.images)


def _pair(graph: Graph, a: Any, b: Any) -> tuple[Tensor, Tensor, bool]:
    """Both as tensors of one type: float32 if either is a float, else the type of the first tensor."""
    dtypes = [each.tensor.dtype for each in (a, b) if isinstance(each, Value)]
    fractions = [each for each in (a, b) if not isinstance(each, Value | int)]
    dtype = "float32" if "float32" in dtypes or fractions else dtypes[0]
    values = [valued(graph, each, dtype) for each in (a, b)]
    (left, right), last = aligned(graph, values)
    return graph.cast(left, dtype), graph.cast(right, dtype), last


def _binary(function: Callable[[Graph, Tensor, Tensor], Tensor]) -> Callable[..., Value]:
    def rule(graph: Graph, a: Any, b: Any) -> Value:
        left, right, last = _pair(graph, a, b)
        return Value(function(graph, left, right), last)

    return rule


def _kind(kind: str, dtype: str = "") -> Callable[[Graph, Tensor, Tensor], Tensor]:
    return lambda graph, a, b: graph.binary(kind, a, b, dtype)


def _product(graph: Graph, a: Tensor, b: Tensor) -> Tensor:
    return graph.binary("LOGICAL_AND", a, b) if a.dtype == "bool" else graph.times(a, b)


def _remainder(graph: Graph, x: Value, divisor: Any) -> Value:
    """With the sign of the divisor."""
    if x.tensor.data is not None and not isinstance(divisor, Value):
        return Value(graph.constant(np.mod(x.tensor.data, divisor), x.tensor.dtype))
    if x.tensor.dtype != "float32":
        return _binary(_kind("FLOOR_MOD"))(graph, x, divisor)
    return _MINUS(
        graph, x, _TIMES(graph, Value(graph.unary("FLOOR", _DIVIDED(graph, x, divisor).tensor), x.images), divisor)
    )


def _fmod(graph: Graph, x: Value, divisor: Any) -> Value:
    """With the sign of x."""
    if x.tensor.dtype != "float32":
        raise NotImplementedError("the rest of whole numbers with their sign")
    times = _DIVIDED(graph, x, divisor)
    whole = graph.times(graph.unary("FLOOR", graph.unary("ABS", times.tensor)), _sign(graph, times.tensor))
    return _MINUS(graph, x, _TIMES(graph, Value(whole, x.images), divisor))


def _add(graph: Graph, a: Any, b: Any, alpha: Any = 1) -> Value:
    return _PLUS(graph, a, b if alpha == 1 else _TIMES(graph, b, alpha))


def _subtract(graph: Graph, a: Any, b: Any, alpha: Any = 1) -> Value:
    return _MINUS(graph, a, b if alpha == 1 else _TIMES(graph, b, alpha))


def _divide(graph: Graph, a: Tensor, b: Tensor) -> Tensor:
    if b.data is not None and b.data.shape == () and b.dtype == "float32":
        return graph.times(a, graph.constant(np.float32(1) / b.data))
    if a.dtype != "float32":
        a, b = graph.cast(a, "float32"), graph.cast(b, "float32")
    return graph.binary("DIV", a, b)


def _where(graph: Graph, condition: Value, a: Any, b: Any) -> Value:
    dtypes = [each.tensor.dtype for each in (a, b) if isinstance(each, Value)]
    dtype = "float32" if "float32" in dtypes or not dtypes else dtypes[0]
    (chosen, left, right), last = aligned(graph, [condition, valued(graph, a, dtype), valued(graph, b, dtype)])
    return Value(graph.choose(chosen, graph.cast(left, dtype), graph.cast(right, dtype)), last)


def _clamp(graph: Graph, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    if low is not None:
        x = graph.binary("MAXIMUM", x, scalar(graph, low, x.dtype))
    return x if high is None else graph.binary("MINIMUM", x, scalar(graph, high, x.dtype))


def _hardtanh(graph: Graph, x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    return graph.unary("RELU6", x) if (low, high) == (0, 6) else _clamp(graph, x, low, high)


def _elu(graph: Graph, x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    half = graph.unary("TANH", graph.scaled(graph.binary("MINIMUM", x, graph.constant(0.0)), 0.5 * input_scale))
    below = graph.binary("DIV", graph.scaled(half, 2.0), graph.minus(graph.constant(1.0), half))
    return graph.scaled(graph.plus(graph.unary("RELU", x), graph.scaled(below, alpha)), scale)


def _leaky_relu(graph: Graph, x: Tensor, slope: float = 0.01) -> Tensor:
    if 0 <= slope <= 1:
        return graph.binary("MAXIMUM", x, graph.scaled(x, slope))
    below = graph.binary("MINIMUM", x, graph.constant(0.0))
    return graph.plus(graph.unary("RELU", x), graph.scaled(below, slope))


def _power(graph: Graph, x: Tensor, exponent: Any) -> Tensor:
    if exponent == 2:
        return graph.times(x, x)
    return graph.binary("POW", x, scalar(graph, exponent, x.dtype))


def _erf(graph: Graph, x: Tensor) -> Tensor:
    """Abramowitz & Stegun, Handbook of Mathematical Functions, 7.1.26: within 1.5e-7.

    sign(x) (1 - (a1 t + ... + a5 t^5) exp(-x^2)) with t = 1 / (1 + p |x|).
    """
    size = graph.unary("ABS", x)
    t = graph.binary("DIV", graph.constant(1.0), graph.plus(graph.scaled(size, 0.3275911), graph.constant(1.0)))
    series = graph.scaled(t, 1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = graph.times(graph.plus(series, graph.constant(factor)), t)
    rest = graph.times(series, graph.unary("EXP", graph.unary("NEG", graph.times(x, x))))
    sign = graph.binary("DIV", x, graph.binary("MAXIMUM", size, graph.constant(1e-30)))
    return graph.times(sign, graph.minus(graph.constant(1.0), rest))


def _log1p(graph: Graph, x: Tensor) -> Tensor:
    """log(1 + x) by Goldberg, What Every Computer Scientist Should Know About Floating-Point Arithmetic, theorem 4."""
    if len(x.shape) > 4:  # 32-bit ARM gets it wrong
        raise NotImplementedError(f"a logarithm of entries of shape {x.shape}")
    one = graph.constant(1.0)
    shifted = graph.plus(x, one)
    moved = graph.minus(shifted, one)
    exact = graph.binary("EQUAL", moved, graph.constant(0.0), "bool")
    divisor = graph.choose(exact, one, moved)
    ratio = graph.binary("DIV", graph.times(x, graph.unary("LOG", shifted)), divisor)
    return graph.choose(exact, x, ratio)


def _expm1(graph: Graph, x: Tensor) -> Tensor:
    """exp(x) - 1: below 1 as 2 tanh(x/2) / (1 - tanh(x/2)), which keeps its digits near zero; directly from 1 on."""
    one = graph.constant(1.0)
    half = graph.unary("TANH", graph.scaled(graph.binary("MINIMUM", x, one), 0.5))
    near = graph.binary("DIV", graph.scaled(half, 2.0), graph.minus(one, half))
    far = graph.minus(graph.unary("EXP", x), one)
    return graph.choose(graph.binary("LESS", x, one, "bool"), near, far)


def _one_minus_power(graph: Graph, base: float, exponent: Value) -> Value:
    """1 - base ** exponent = 1 - exp(-y) = 2 tanh(y/2) / (1 + tanh(y/2)) with y = -log(base) exponent."""
    if base == 0:
        return Value(graph.constant(1.0))
    half = graph.unary("TANH", graph.scaled(graph.cast(exponent.tensor, "float32"), -0.5 * math.log(base)))
    return Value(graph.binary("DIV", graph.scaled(half, 2.0), graph.plus(half, graph.constant(1.0))))


def _sign(graph: Graph, x: Tensor) -> Tensor:
    above, below = (
        graph.cast(graph.binary(kind, x, graph.constant(0.0), "bool"), "float32") for kind in ("GREATER", "LESS")
    )
    return graph.minus(above, below)


def _relu_grad(graph: Graph, dy: Value, y: Value) -> Value:
    (gradient, result), last = aligned(graph, [dy, y])
    if graph.delegated and not _from_relu(graph, result):  # nn.Threshold passes its input here
        result = graph.unary("RELU", result)
    return Value(graph.times(gradient, positive(graph, result)), last)


def _from_relu(graph: Graph, x: Tensor | None) -> bool:
    """Whether a tensor is the result of a ReLU, or of max pooling after one."""
    made = next((operation for operation in graph.operations if operation.output is x), None)
    if made is not None and made.kind == "MAX_POOL_2D":
        return _from_relu(graph, made.inputs[0])
    return made is not None and made.kind in ("RELU", "RELU6")


def _between_grad(graph: Graph, dy: Value, x: Value, low: float, high: float) -> Value:
    """Gradient of clamping, from the clamped entries: their distances to the limits are never below zero."""
    (gradient, entries), last = aligned(graph, [dy, x])
    clamped = _hardtanh(graph, entries, low, high)
    above = positive(graph, graph.minus(clamped, graph.constant(low)) if low else clamped)
    below = positive(graph, graph.minus(graph.constant(high), clamped))
    return Value(graph.times(gradient, graph.times(above, below)), last)


def positive(graph: Graph, x: Tensor) -> Tensor:
    """1 where x > 0, and 0 where it is 0; x must not be negative. XNNPACK cannot compare, so it multiplies."""
    if not graph.delegated:
        return graph.cast(graph.binary("GREATER", x, graph.constant(0.0), "bool"), "float32")
    huge = graph.scaled(graph.scaled(x, _HUGE), _HUGE)
    return graph.binary("MINIMUM", huge, graph.constant(1.0))


def _cast(graph: Graph, x: Value, dtype: torch.dtype | None = None, **_: Any) -> Value:
    name = x.tensor.dtype if dtype is None else str(dtype).removeprefix("torch.")
    if name not in ("float32", "int32", "int64", "bool"):
        raise NotImplementedError(name)
    return Value(graph.cast(x.tensor, name), x.images)


def _same(graph: Graph, x: Value, *_: Any, **__: Any) -> Value:
    return x


_PLUS, _MINUS = _binary(Graph.plus), _binary(Graph.minus)
_TIMES, _DIVIDED = _binary(_product), _binary(_divide)
_COMPARISONS = {
    "gt": "GREATER", "lt": "LESS", "ge": "GREATER_EQUAL", "le": "LESS_EQUAL", "eq": "EQUAL", "ne": "NOT_EQUAL",
}  # fmt: skip
_UNARY = {
    "abs": "ABS", "ceil": "CEIL", "cos": "COS", "exp": "EXP", "floor": "FLOOR", "log": "LOG", "neg": "NEG", "relu": "RELU",
    "round": "ROUND", "rsqrt": "RSQRT", "sigmoid": "LOGISTIC", "sin": "SIN", "sqrt": "SQRT", "tanh": "TANH",
}  # fmt: skip
_BINARY = {
    aten.maximum.default: "MAXIMUM", aten.minimum.default: "MINIMUM",
    aten.logical_and.default: "LOGICAL_AND", aten.bitwise_and.Tensor: "LOGICAL_AND",
    aten.logical_or.default: "LOGICAL_OR", aten.bitwise_or.Tensor: "LOGICAL_OR",
}  # fmt: skip
RULES: dict[Any, Callable[..., Any]] = {
    **{getattr(aten, name).default: _unary(kind) for name, kind in _UNARY.items()},
    **{operation: _binary(_kind(kind)) for operation, kind in _BINARY.items()},
    **{
        getattr(getattr(aten, name), overload): _binary(_kind(kind, "bool"))
        for name, kind in _COMPARISONS.items()
        for overload in ("Tensor", "Scalar")
    },
    aten._to_copy.default: _cast,  # noqa: SLF001
    aten.add.Tensor: _add,
    aten.add.Scalar: _add,
    aten.clamp.default: _composed(_clamp),
    aten.clamp_max.default: _composed(lambda graph, x, high: _clamp(graph, x, None, high)),
    aten.clamp_min.default: _composed(_clamp),
    aten.clone.default: _same,
    aten.div.Scalar: _DIVIDED,
    aten.div.Tensor: _DIVIDED,
    aten.elu.default: _composed(_elu),
    aten.erf.default: _composed(_erf),
    aten.expm1.default: _composed(_expm1),
    aten.hardtanh.default: _composed(_hardtanh),
    aten.isnan.default: _composed(lambda graph, x: graph.binary("NOT_EQUAL", x, x, "bool")),
    aten.leaky_relu.default: _composed(_leaky_relu),
    aten.log1p.default: _composed(_log1p),
    aten.logical_not.default: lambda graph, x: Value(
        graph.unary("LOGICAL_NOT", graph.cast(x.tensor, "bool")), x.images
    ),
    aten.bitwise_not.default: lambda graph, x: Value(graph.unary("LOGICAL_NOT", x.tensor), x.images),
    aten.mul.Scalar: _TIMES,
    aten.mul.Tensor: _TIMES,
    aten.fmod.Scalar: _fmod,
    aten.fmod.Tensor: _fmod,
    aten.pow.Tensor_Scalar: _composed(_power),
    aten.pow.Tensor_Tensor: _binary(_kind("POW")),
    aten.reciprocal.default: _composed(lambda graph, x: graph.binary("DIV", graph.constant(1.0), x)),
    aten.remainder.Scalar: _remainder,
    aten.remainder.Tensor: _remainder,
    aten.sign.default: _composed(_sign),
    aten.sub.Scalar: _subtract,
    aten.sub.Tensor: _subtract,
    aten.where.self: _where,
    ours.between_grad.default: _between_grad,
    ours.one_minus_power.default: _one_minus_power,
    ours.relu_grad.default: _relu_grad,
}
