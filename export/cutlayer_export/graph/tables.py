"""Embeddings whose training goes by rows: a step gets the rows that occur in a batch, instead of the whole table.

The graphs get, of each table and its momentum, the rows that occur, as they were when they last occurred; what these owe
since then; and where in the batch each occurs, first and again. Backward gives their new values. `cutlayer_core.tables`
says what a row owes, and what padded rows are.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.library import custom_op

from cutlayer_core.tables import OWED
from cutlayer_core.trial.optimizers import Sgd
from cutlayer_export.graph.training_graph import Graph

__all__ = ["OF_ROWS", "by_rows"]

aten, ours = torch.ops.aten, torch.ops.cutlayer
OF_ROWS = ("positions.", "first.", "rest.", "places.", "rows.", *(f"{kind}." for kind, *_ in OWED))
"""What the names of inputs begin with that hold as much as a batch has rows."""
_EACH = {aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor}
"""What an optimizer step is made of: operations on each entry."""
_ROWS, _AGAIN = 3, 2
"""Sizes of examples, which vary later."""
_LEAST_ROWS = 64
"""Rows for each token of a sample from which on a table trains by rows: a batch of so many may have each of them."""


@custom_op("cutlayer::rows_grad_onto", mutates_args=())
def rows_grad_onto(base: Tensor, dy: Tensor, first: Tensor, rest: Tensor, places: Tensor) -> Tensor:
    """The gradient of looked-up rows, added to ``base`` (R, width).

    Args:
        base: for each row that occurs.
        dy: the gradient of what was looked up, (B, ..., width).
        first: where in the flattened batch each row occurs first, (R,).
        rest: where rows occur again, (M,).
        places: which row each of ``rest`` is, (M,).
    """
    flat = dy.flatten(0, -2)
    return (base + flat[first]).index_add(0, places, flat[rest])


@rows_grad_onto.register_fake
def _(base: Tensor, dy: Tensor, first: Tensor, rest: Tensor, places: Tensor) -> Tensor:
    return torch.empty_like(base)


class _Table(NamedTuple):
    """A parameter with its nodes: itself, its momentum, the tokens, and all from which its new values are made."""

    name: str
    weight: fx.Node
    momentum: fx.Node | None
    tokens: fx.Node
    chain: set[fx.Node]


def by_rows(graph: Graph, inference: Graph, padded: bool = False) -> tuple[Graph, tuple[str, ...]]:
    """The graph, changed in place, with inputs more for each table that can train by rows; and their parameters' names.

    One can if it is large, if SGD without clipping trains it, if the client looks up its own input in it, once, and if
    nothing else reads it, in inference neither.

    Args:
        graph: of training.
        inference: of the same client.
        padded: whether the rows are; see `cutlayer_core.tables.Table.given`.
    """
    if not isinstance(graph.optimizer, Sgd) or graph.optimizer.clip_norm is not None:
        return graph, ()
    inputs = dict(graph.inputs)
    nodes = dict(zip(inputs, graph.module.graph.find_nodes(op="placeholder"), strict=True))
    names = [name.removeprefix("params.") for name in inputs if name.startswith("params.")]
    names = [name for name in names if _is_large(graph, name) and _looks_up_alone(inference, name)]
    found = [table for name in names if (table := _table(graph, nodes, name)) is not None]
    for table in found:
        width = inputs[f"params.{table.name}"].shape[1]
        given = _examples(table, graph.optimizer, inputs["x"], width, padded)
        inputs |= given
        _take_rows(graph.module.graph, table, given)
    left = graph.module.graph.find_nodes(op="placeholder")
    for name, node in nodes.items():
        if not node.users and node in left:  # the whole table, and its momentum
            graph.module.graph.erase_node(node)
            del inputs[name]
    graph.module.recompile()
    return graph._replace(inputs=inputs), tuple(table.name for table in found)


def _is_large(graph: Graph, name: str) -> bool:
    return len(graph.inputs[f"params.{name}"]) >= _LEAST_ROWS * graph.inputs["x"][0].numel()


def _looks_up_alone(inference: Graph, name: str) -> bool:
    """Whether inference reads a parameter by looking up its own input alone: other rows may be late."""
    nodes = dict(zip(inference.inputs, inference.module.graph.find_nodes(op="placeholder"), strict=True))
    readers = nodes[f"params.{name}"].users if f"params.{name}" in nodes else {}
    return all(each.target is aten.embedding.default and each.args[1] is nodes["x"] for each in readers)


def _table(graph: Graph, nodes: dict[str, fx.Node], name: str) -> _Table | None:
    results: Any
    [results] = graph.module.graph.output_node().args
    outputs = dict(zip(graph.outputs, results, strict=True))
    weight, momentum, x = nodes[f"params.{name}"], nodes.get(f"state.momentum.{name}"), nodes["x"]
    own = [outputs[key] for key in (f"new_params.{name}", f"new_state.momentum.{name}") if key in outputs]
    chain = _chain(own, weight.meta["val"].shape)
    lookups = {each for each in weight.users if each.target is aten.embedding.default and each.args[1] is x}
    scatters = [each for each in chain if _scatters(each)]
    if not lookups or not scatters or any(_scattered(each).tokens is not x for each in scatters):
        return None
    if any(each.op == "call_function" and each.target not in _EACH and not _scatters(each) for each in chain):
        return None
    if not _is_gradient(outputs[f"gradients.{name}"]):  # of several lookups, whose gradients are added up
        return None
    readers = {user for each in chain for user in each.users} - chain - lookups - {graph.module.graph.output_node()}
    return None if readers else _Table(name, weight, momentum, x, chain)


def _chain(ends: list[fx.Node], shape: Any) -> set[fx.Node]:
    """All nodes of a table's shape from which its new values are made."""
    chain, pending = set[fx.Node](), list(ends)
    while pending:
        node = pending.pop()
        value = node.meta.get("val")
        if node not in chain and isinstance(value, torch.Tensor) and value.shape == shape:
            chain.add(node)
            pending += node.all_input_nodes
    return chain


class _Scattered(NamedTuple):
    base: fx.Node | None
    dy: fx.Node
    tokens: fx.Node
    padding: int


def _scatters(node: fx.Node) -> bool:
    return node.target in (ours.embedding_grad.default, ours.embedding_grad_onto.default)


def _scattered(node: fx.Node) -> _Scattered:
    args: Any = node.args
    if node.target is ours.embedding_grad_onto.default:
        return _Scattered(*args)
    dy, tokens, _, padding = args
    return _Scattered(None, dy, tokens, padding)


def _take_rows(graph: fx.Graph, table: _Table, given: dict[str, Tensor]) -> None:
    """Let a table's lookups and new values be those of rows; ``given``: examples of the new inputs."""
    new = {}
    for name, value in given.items():
        placeholders = graph.find_nodes(op="placeholder")
        with graph.inserting_after(placeholders[-1]):
            node = graph.placeholder(f"rows_{len(placeholders)}")
        node.meta |= {"val": value, "input": name}
        new[name.removesuffix(f".{table.name}")] = node
    with graph.inserting_before(next(each for each in graph.nodes if each.op != "placeholder")):
        copies = _up_to_date(graph, table, new)
    weight = copies[table.weight]
    for lookup in [each for each in table.weight.users if each.target is aten.embedding.default]:
        lookup.args = (weight, new["positions"])
    for node in [each for each in graph.nodes if each in table.chain - copies.keys()]:
        with graph.inserting_before(node):
            if _scatters(node):
                base, dy, tokens_node, padding = _scattered(node)
                start = graph.call_function(aten.mul.Tensor, (weight, 0.0)) if base is None else copies[base]
                dy = _without_padding(graph, dy, tokens_node, padding)
                copies[node] = _added(graph, start, dy, new)
            else:
                copies[node] = graph.node_copy(node, lambda each: copies.get(each, each))
        copies[node].meta = {**node.meta, "val": weight.meta["val"]}
    _give(graph, copies)


def _added(graph: fx.Graph, base: fx.Node, dy: fx.Node, new: dict[str, fx.Node]) -> fx.Node:
    """The gradient of looked-up rows, added to ``base``."""
    if "first" not in new:
        return graph.call_function(ours.embedding_grad_onto.default, (base, dy, new["positions"], -1))
    places = (new["first"], new["rest"], new["places"])
    return graph.call_function(ours.rows_grad_onto.default, (base, dy, *places))


def _examples(table: _Table, settings: Sgd, tokens: Tensor, width: int, padded: bool) -> dict[str, Tensor]:
    rows = tokens.numel() if padded else _ROWS
    found = {"positions": torch.zeros_like(tokens), "rows.params": torch.randn(rows, width)}
    if not padded:
        found |= {"first": torch.arange(_ROWS), "rest": torch.arange(_AGAIN), "places": torch.arange(_AGAIN)}
    if table.momentum is not None:
        found["rows.state.momentum"] = torch.randn(rows, width)
    if settings.momentum or settings.weight_decay:
        found |= {kind: torch.ones(rows, 1) for kind, *_ in (OWED if table.momentum is not None else OWED[-1:])}
    return {f"{kind}.{table.name}": value for kind, value in found.items()}


def _up_to_date(graph: fx.Graph, table: _Table, new: dict[str, fx.Node]) -> dict[fx.Node, fx.Node]:
    """Weight and momentum of the rows, after what they owe; by the nodes of the whole ones."""
    weight, momentum = new["rows.params"], new.get("rows.state.momentum")
    kept = {"weight": weight} | ({"momentum": momentum} if momentum is not None else {})
    if not any(kind in new for kind, *_ in OWED):
        return {table.weight: weight}
    found = {}
    for what in kept:
        terms = [(new[f"{what}-{of}"], value) for of, value in kept.items()]
        found[what] = _sum_of_products(graph, terms)
        found[what].meta["val"] = weight.meta["val"]
    whole = {"weight": table.weight, "momentum": table.momentum}
    return {old: found[what] for what, old in whole.items() if old is not None}


def _sum_of_products(graph: fx.Graph, terms: list[tuple[fx.Node, fx.Node]]) -> fx.Node:
    products = [graph.call_function(aten.mul.Tensor, pair) for pair in terms]
    return graph.call_function(aten.add.Tensor, tuple(products)) if len(products) == 2 else products[0]


def _give(graph: fx.Graph, copies: dict[fx.Node, fx.Node]) -> None:
    """Give rows where whole tables were given; but the gradient of a whole table, for the certificate, stays one."""
    end = graph.output_node()
    results: Any
    [results] = end.args
    end.args = ([each if _is_gradient(each) else copies.get(each, each) for each in results],)
    graph.eliminate_dead_code()


def _is_gradient(node: fx.Node) -> bool:
    return node.target is ours.embedding_grad.default


def _without_padding(graph: fx.Graph, dy: fx.Node, tokens: fx.Node, padding: int) -> fx.Node:
    """The gradient of looked-up rows with zeros where the padding token was looked up."""
    if padding < 0:
        return dy
    kept = graph.call_function(aten.ne.Scalar, (tokens, padding))
    column = graph.call_function(aten.unsqueeze.default, (kept, -1))
    factor = graph.call_function(aten._to_copy.default, (column,), {"dtype": torch.float32})  # noqa: SLF001
    return graph.call_function(aten.mul.Tensor, (dy, factor))
