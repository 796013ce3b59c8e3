"""Translates a traced torch graph into a TFLite graph, operation by operation."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from cutlayer_core.errors import UserError
from cutlayer_export.graph import training_graph
from cutlayer_export.graph.owners import owner_of
from cutlayer_export.graph.tables import OF_ROWS
from cutlayer_export.tflite import (
    angles,
    convolution,
    draws,
    elementwise,
    matrix,
    moving,
    normalisation,
    places,
    pooling,
    reductions,
    winograd,
)
from cutlayer_export.tflite.graph import Graph, Tensor
from cutlayer_export.tflite.values import PerSample, Value, count, plain, scalar

__all__ = ["RULES", "lower"]

Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {
    **angles.RULES,
    **convolution.RULES,
    **draws.RULES,
    **elementwise.RULES,
    **matrix.RULES,
    **moving.RULES,
    **normalisation.RULES,
    **places.RULES,
    **pooling.RULES,
    **reductions.RULES,
    **winograd.RULES,
}
"""What each operation of torch becomes: a function of the graph and of the operation's arguments."""


def lower(traced: training_graph.Graph, delegated: bool) -> Graph:
    """The TFLite graph of ``traced``: the same inputs and outputs, in torch's order of axes.

    ``delegated``: see `Graph`.

    Raises:
        UserError: it has an operation that TFLite's builtin operations cannot express, or not with these arguments.
    """
    graph, values = Graph(delegated), dict[fx.Node, Any]()
    for node in traced.module.graph.nodes:
        if node.op == "placeholder":
            values[node] = _input(graph, node.meta["input"], traced.inputs)
        elif node.op == "call_function":
            values[node] = _called(graph, node, values)
        elif node.op == "get_attr":
            values[node] = _constant(graph, operator.attrgetter(node.target)(traced.module))
        else:
            results = [_argument(each, values) for each in node.args[0]]
            _give(graph, dict(zip(traced.outputs, results, strict=True)))
    return graph


def _input(graph: Graph, name: str, examples: Mapping[str, torch.Tensor]) -> Value:
    example = examples[name]
    if name.startswith("constants."):
        return _constant(graph, example)
    shape = list(example.shape)
    if name in training_graph.BATCHED or name.startswith(OF_ROWS):
        shape[0] = -(shape[0] // len(examples["x"]))
    return Value(graph.input(name, shape, _dtype(example)))


def _constant(graph: Graph, value: torch.Tensor) -> Value:
    return Value(graph.constant(value.detach().numpy(), _dtype(value)))


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _called(graph: Graph, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    arguments = [_argument(each, values) for each in node.args]
    options = {name: _argument(each, values) for name, each in node.kwargs.items()}
    rule = RULES.get(node.target) or _NUMBERS.get(node.target)
    if rule is None:
        raise _refusal(node, "")
    try:
        return rule(graph, *arguments, **options)
    except (NotImplementedError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _refusal(node, f" ({error})") from error


def _refusal(node: fx.Node, reason: str) -> UserError:
    name = node.target if isinstance(node.target, torch._ops.OpOverload) else getattr(node.target, "__name__", "")  # noqa: SLF001
    return UserError(
        f"the part before the cut cannot be exported to TFLite: its builtin operations have no counterpart of "
        f"{name}{owner_of(node)}{reason}; cut before it, or use --engine onnx"
    )


def _argument(argument: Any, values: dict[fx.Node, Any]) -> Any:
    if isinstance(argument, fx.Node):
        return values[argument]
    if isinstance(argument, list | tuple):
        return [_argument(each, values) for each in argument]
    return argument


def _give(graph: Graph, results: dict[str, Any]) -> None:
    """Set the graph's outputs, each a tensor of its own."""
    taken: set[Tensor] = set(graph.inputs.values())
    for name, value in results.items():
        tensor = plain(graph, value)
        if tensor in taken or tensor.data is not None:
            tensor = graph.copy(tensor)
        taken.add(tensor)
        tensor.name = name
        graph.outputs[name] = tensor


# Numbers that depend on the size of the batch.


def _arithmetic(kind: str, known: Callable[[Any, Any], Any]) -> Rule:
    def rule(graph: Graph, a: Any, b: Any) -> Any:
        if isinstance(a, int | float) and isinstance(b, int | float):
            return known(a, b)
        if known is operator.mul and isinstance(a, PerSample | int) and isinstance(b, PerSample | int):
            whole, growing = (a, b) if isinstance(a, int) else (b, a)
            if isinstance(whole, int) and isinstance(growing, PerSample):
                return PerSample(whole * growing.number)
        if known is operator.floordiv and isinstance(a, PerSample) and isinstance(b, int) and a.number % b == 0:
            return PerSample(a.number // b)
        if not kind:
            raise NotImplementedError("a size that is no multiple of the batch")
        return graph.binary(kind, scalar(graph, a), scalar(graph, b))

    return rule


_NUMBERS: dict[Any, Rule] = {
    operator.getitem: lambda graph, values, place: values[place],
    operator.add: _arithmetic("ADD", operator.add),
    operator.sub: _arithmetic("SUB", operator.sub),
    operator.mul: _arithmetic("MUL", operator.mul),
    operator.truediv: _arithmetic("DIV", operator.truediv),
    operator.floordiv: _arithmetic("", operator.floordiv),
    torch.ops.aten.sym_size.int: lambda graph, x, axis: count(x.shape[axis : axis + 1]),
    # Of a tensor in rows, as all are that a reshape makes; what else comes of it differs from torch in the certificate.
    torch.ops.aten.sym_stride.int: lambda graph, x, axis: count(x.shape[axis % len(x.shape) + 1 :]),
    torch.sym_float: lambda graph, number: number,
    torch.ops.aten.sym_numel.default: lambda graph, x: count(x.shape),
}
