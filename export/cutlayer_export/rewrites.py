"""Rewrites of a traced graph that make it smaller or faster; its results stay the same up to the order of additions."""

from typing import Any

import torch
from torch import fx

__all__ = ["simplify"]

aten, ours = torch.ops.aten, torch.ops.cutlayer
_SAME = {aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default, aten.detach_copy.default}


def simplify(module: fx.GraphModule) -> None:
    """Apply all rewrites in place."""
    for node in list(module.graph.nodes):
        if node.target in _SAME:
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)
    for node in module.graph.find_nodes(op="call_function", target=ours.relu_grad.default):
        _mask_before_unpooling(module.graph, node)
    for node in module.graph.find_nodes(op="call_function", target=aten.add.Tensor):
        _scatter_onto(module.graph, node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _scatter_onto(graph: fx.Graph, add: fx.Node) -> None:
    """What an optimizer adds to an embedding's gradient becomes the table that the few rows are scattered onto.

    add(base, gradient) is gradient onto base, and add(other, gradient onto base) is gradient onto add(other, base).
    """
    for gradient, other in (add.args[:2], add.args[1::-1]):
        if not isinstance(gradient, fx.Node) or not isinstance(other, fx.Node) or add.kwargs:
            continue
        base: Any = other
        with graph.inserting_before(add):
            if gradient.target is ours.embedding_grad.default:
                dy, indices, _, padding = gradient.args
            elif gradient.target is ours.embedding_grad_onto.default:
                inner, dy, indices, padding = gradient.args
                base = graph.call_function(aten.add.Tensor, (other, inner))
                base.meta = dict(add.meta)
            else:
                continue
            onto = graph.call_function(ours.embedding_grad_onto.default, (base, dy, indices, padding))
        onto.meta = dict(add.meta)
        add.replace_all_uses_with(onto)
        graph.erase_node(add)
        return


def _mask_before_unpooling(graph: fx.Graph, relu_grad: fx.Node) -> None:
    """relu_grad(max_pool_grad(dy, x, y), x) is max_pool_grad(relu_grad(dy, y), x, y), on a fraction of the entries.

    What a window gives back goes to its maximum, whose sign is the sign of y.
    """
    pooled: Any
    dy: Any
    pooled, x = relu_grad.args
    if pooled.target is not ours.max_pool_grad.default or pooled.args[1] is not x or len(pooled.users) > 1:
        return
    dy, _, y, *geometry = pooled.args
    with graph.inserting_before(pooled):
        masked = graph.call_function(ours.relu_grad.default, (dy, y))
        unpooled = graph.call_function(ours.max_pool_grad.default, (masked, x, y, *geometry))
    masked.meta, unpooled.meta = dict(dy.meta), dict(relu_grad.meta)
    relu_grad.replace_all_uses_with(unpooled)
    graph.erase_node(relu_grad)
    graph.erase_node(pooled)
