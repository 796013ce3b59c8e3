"""Cut a module in two at the output of one of its submodules.

Only the containers on the way to the cut are traced; every other module stays whole, keeps its name in the state dict
and its train/eval behaviour. What the cut needs goes to the client, the rest to the server.
"""

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from torch import fx, nn

from cutlayer.errors import UserError

__all__ = ["Halves", "cut"]


class Halves(NamedTuple):
    """Both halves of a model; ``server(client(x))`` is bit-identical to ``model(x)``.

    They share their parameters with the model that was cut; together they own each of them once.
    """

    client: fx.GraphModule
    server: fx.GraphModule


def cut(model: nn.Module, name: str) -> Halves:
    """Cut ``model`` at the output of its submodule ``name``.

    Raises:
        UserError: no such module, one that is not called exactly once, a model whose containers branch on their
            input, a second tensor that crosses the cut, or parameters that both halves would own.
    """
    modules = [each for each, _ in model.named_modules() if each]
    if name not in modules:
        close = difflib.get_close_matches(name, modules, 3, 0.4)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; modules: {', '.join(modules)}"
        raise UserError(f"model.cut: found {name!r}, which is not a module of {type(model).__name__}{hint}")
    graph, root = _trace(model, name)
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
    if len(calls) != 1:
        raise UserError(f"model.cut: module {name!r} is called {len(calls)} times, allowed: a module called once")
    client_nodes = _needed_by(calls[0])
    crossing = _crossing(graph, client_nodes)
    if crossing != [calls[0]]:
        others = [str(node.target) for node in crossing if node is not calls[0]]
        raise UserError(
            f"model.cut: {name!r} is not the only tensor that crosses the cut, {', '.join(others)} does too "
            "(a skip connection); cut at the end of the block that encloses both"
        )
    halves = Halves(_client(root, graph, client_nodes, calls[0]), _server(root, graph, client_nodes, calls[0]))
    shared = {id(p) for p in halves.client.parameters()} & {id(p) for p in halves.server.parameters()}
    if shared:
        raise UserError(f"model.cut: {len(shared)} parameters are used on both sides of {name!r}; cut elsewhere")
    for half in halves:
        half.train(model.training)
    return halves


class _Tracer(fx.Tracer):
    """Traces into the containers of the cut and treats every other module as a leaf."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return not self._name.startswith(qualified_name + ".")


def _trace(model: nn.Module, name: str) -> tuple[fx.Graph, nn.Module]:
    tracer = _Tracer(name)
    try:
        graph = tracer.trace(model)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise UserError(
            f"model.cut: the modules that enclose {name!r} compute with Python what cannot be traced ({error}); "
            "cut at a module outside them"
        ) from error
    assert isinstance(tracer.root, nn.Module)
    return graph, tracer.root


def _needed_by(node: fx.Node) -> set[fx.Node]:
    needed, pending = set[fx.Node](), [node]
    while pending:
        each = pending.pop()
        if each not in needed:
            needed.add(each)
            pending.extend(each.all_input_nodes)
    return needed


def _crossing(graph: fx.Graph, client_nodes: set[fx.Node]) -> list[fx.Node]:
    """Nodes of the client, inputs included, that something outside it reads."""
    inputs = {node for node in graph.nodes if node.op == "placeholder"}
    return [
        node
        for node in graph.nodes
        if node in client_nodes | inputs and any(user not in client_nodes for user in node.users)
    ]


def _client(root: nn.Module, graph: fx.Graph, nodes: set[fx.Node], last: fx.Node) -> fx.GraphModule:
    client = fx.Graph()
    copies = _copy(client, (node for node in graph.nodes if node in nodes), {})
    client.output(copies[last])
    return fx.GraphModule(root, client, "Client")


def _server(root: nn.Module, graph: fx.Graph, client_nodes: set[fx.Node], smashed: fx.Node) -> fx.GraphModule:
    server = fx.Graph()
    copies = {smashed: server.placeholder("z")}
    rest = (node for node in graph.nodes if node not in client_nodes and node.op != "placeholder")
    _copy(server, rest, copies)
    return fx.GraphModule(root, server, "Server")


def _copy(graph: fx.Graph, nodes: Iterable[fx.Node], copies: dict[fx.Node, fx.Node]) -> dict[fx.Node, fx.Node]:
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda each: copies[each])
    return copies
