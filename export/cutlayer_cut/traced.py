"""A model as a graph in which the output of the cut's module is known, and the graph split there."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx, nn

from cutlayer_cut.kept_calls import MethodOf, WithoutGradient, call_without_gradient

__all__ = ["AUTOCAST", "NO_GRADIENT", "Parts", "Traced", "Unfollowed", "Untraceable", "part", "prune"]

NO_GRADIENT = "no_gradient"
"""Key in the ``meta`` of a node that the model runs inside ``torch.no_grad()``."""

AUTOCAST = "its code uses torch.autocast, which halves would lose; take it out, since boards train in float32"

_CHANGE_BUFFERS = {"batch_norm", "instance_norm"}
"""Operations that update running statistics besides giving a result."""
_SIZE = torch.ops.aten.sym_size.int


class Untraceable(Exception):
    """The code around the cut cannot be followed; the text says why."""


class Unfollowed(Untraceable):
    """A trace of modules stopped at code that a trace of operations may follow."""


class Traced(NamedTuple):
    """A graph of a model.

    Attributes:
        graph: with one placeholder, the model's input.
        root: holds the modules and tensors that the graph's nodes refer to.
        outputs: the nodes of the tensors that the cut's module returns.
    """

    graph: fx.Graph
    root: nn.Module | dict[str, Any]
    outputs: list[fx.Node]


class Parts(NamedTuple):
    """A graph split at its cut.

    Attributes:
        client: the nodes before the cut, in order.
        server: the nodes after it, in order, including those that both sides compute for themselves.
        crossing: nodes of the client, including the model's input, that the server reads.
        smashed: the first output of the cut's module that the server reads; None if it reads none.
        rows: how many rows of the smashed data each sample has: more than one where the model has folded others, such as
            frames, into the batch. What crosses then has them as its second dimension.
    """

    client: list[fx.Node]
    server: list[fx.Node]
    crossing: list[fx.Node]
    smashed: fx.Node | None
    rows: int = 1

    def graphs(self) -> tuple[fx.Graph, fx.Graph]:
        """Client and server as separate graphs, joined by the one tensor that crosses."""
        assert self.smashed is not None
        assert self.crossing == [self.smashed], "not one tensor crosses"
        client, server = fx.Graph(), fx.Graph()
        given = _copy(client, self.client, {})[self.smashed]
        taken = smashed = server.placeholder("z")
        if self.rows > 1:
            given = client.call_function(torch.unflatten, (given, 0, (-1, self.rows)))
            taken = server.call_function(torch.flatten, (smashed, 0, 1))
        client.output(given)
        sizes = {node: server.call_function(_SIZE, (smashed, 0)) for node in self.server if _is_batch_size(node)}
        _copy(server, (node for node in self.server if node not in sizes), {self.smashed: taken, **sizes})
        return client, server


def prune(graph: fx.Graph) -> None:
    """Drop nodes that have no effect: shape checks, and results that nobody reads."""
    for node in reversed(list(graph.nodes)):
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        check = name.startswith("_assert")
        changes = name.endswith("_") or name in _CHANGE_BUFFERS
        pure = node.op in ("call_function", "get_attr") and not changes
        if not node.users and (check or pure):
            graph.erase_node(node)


def part(traced: Traced) -> Parts:
    """Give the client everything that the cut needs, and the server everything else.

    What does not depend on the input's values, such as a table of positions or the batch size, does not cross the cut:
    both sides compute it for themselves.
    """
    nodes = list(traced.graph.nodes)
    given = [
        node for node in nodes if node.op == "placeholder"
    ]  # the samples, then optional arguments at their defaults
    inputs = set(given)
    before = _needed_by(traced.outputs) | inputs
    after = {node for node in nodes if node not in before}
    readers = (node for node in after if not _is_batch_size(node))
    crossing = {each for node in readers for each in node.all_input_nodes if each in before}
    dependent = _depending_on_values(nodes)
    computed_twice = _needed_by(crossing - dependent) - inputs
    crossing -= computed_twice
    smashed = [node for node in traced.outputs if node in crossing]
    return Parts(
        client=[node for node in nodes if node in before],
        server=[node for node in nodes if node in after | computed_twice],
        crossing=[node for node in nodes if node in crossing],
        smashed=smashed[0] if smashed else None,
        rows=_rows_per_sample(smashed[0], given[0]) if smashed else 1,
    )


def _rows_per_sample(smashed: fx.Node, x: fx.Node) -> int:
    """How many times as many rows there are as samples, if that is a whole number, else 1."""
    value = smashed.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        return 1
    rows, samples = (_expression(each) for each in (value.shape[0], x.meta["val"].shape[0]))
    share = rows / samples
    return int(share) if share.is_Integer else 1


def _expression(size: int | torch.SymInt) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)


def _needed_by(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    needed, pending = set[fx.Node](), list(nodes)
    while pending:
        each = pending.pop()
        if each not in needed:
            needed.add(each)
            pending.extend(each.all_input_nodes)
    return needed


def _depending_on_values(nodes: list[fx.Node]) -> set[fx.Node]:
    """The input and everything computed from it, except the batch size."""
    dependent = set[fx.Node]()
    for node in nodes:
        computed = any(each in dependent for each in node.all_input_nodes) and not _is_batch_size(node)
        if node.op == "placeholder" or computed:
            dependent.add(node)
    return dependent


def _is_batch_size(node: fx.Node) -> bool:
    if node.target is not _SIZE:
        return False
    tensor, axis = node.args
    return isinstance(tensor, fx.Node) and tensor.op == "placeholder" and bool(axis == 0)


def _copy(graph: fx.Graph, nodes: Iterable[fx.Node], copies: dict[fx.Node, fx.Node]) -> dict[fx.Node, fx.Node]:
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda each: copies[each])
        if node.meta.get(NO_GRADIENT):
            copies[node] = _without_gradient(graph, copies[node])
    return copies


def _without_gradient(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A node that runs its call inside ``torch.no_grad()``, as the model does."""
    if node.op == "call_function":
        node.target = WithoutGradient(node.target)  # type: ignore[arg-type]
    elif node.op == "call_method":
        node.op, node.target = "call_function", WithoutGradient(MethodOf(str(node.target)))
    elif node.op == "call_module":
        with graph.inserting_before(node):
            module = graph.get_attr(str(node.target))
        node.op, node.target, node.args = "call_function", call_without_gradient, (module, *node.args)
    return node
