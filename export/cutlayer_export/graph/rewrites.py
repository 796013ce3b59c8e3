"""Rewrites of a traced graph that make it smaller or faster; its results stay the same up to the order of additions."""

from typing import Any

import torch
from torch import fx

__all__ = ["scale_weights_instead", "simplify", "use_plain_softmax", "use_reshape"]

aten, ours = torch.ops.aten, torch.ops.cutlayer
_VIEWS = {aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.reshape.default}  # noqa: SLF001
_PRODUCTS = {aten.bmm.default, aten.mm.default, aten.matmul.default}
_SAME = {aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default, aten.detach_copy.default}
_CHECKS = {aten._assert_async.msg, aten._assert_async.default}  # noqa: SLF001
"""What torch checks at run time, and boards do not."""

_OF_TENSORS = {aten.mul.Scalar: aten.mul.Tensor, aten.div.Scalar: aten.div.Tensor}
"""Overloads for numbers that depend on the batch, which the ONNX exporter treats as tensors."""


def simplify(module: fx.GraphModule) -> None:
    """Apply the rewrites that help on every runtime, in place."""
    for node in list(module.graph.nodes):
        if node.target in _OF_TENSORS and isinstance(node.args[1], fx.Node):
            node.target = _OF_TENSORS[node.target]
        if node.target in _CHECKS:
            module.graph.erase_node(node)
        elif node.target in _SAME:
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)
    for node in module.graph.find_nodes(op="call_function", target=ours.relu_grad.default):
        _mask_before_unpooling(module.graph, node)
    for node in module.graph.find_nodes(op="call_function", target=aten.add.Tensor):
        _scatter_onto(module.graph, node)
    module.graph.eliminate_dead_code()
    module.recompile()


def scale_weights_instead(module: fx.GraphModule) -> None:
    """Instead of dy, scale a convolution's weights and their gradients, which are small; its backward pass is linear.

    BatchNorm's backward pass ends with such a scale, and a convolution may come before it. The rewrite helps only on
    runtimes that are as fast with weights that depend on samples as with others.
    """
    for node in module.graph.find_nodes(op="call_function", target=ours.scale_channels.default):
        _scale_weights(module.graph, node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _scale_weights(graph: fx.Graph, scaled: fx.Node) -> None:
    shape: Any
    size: Any
    dy, scale = scaled.args
    for user in list(scaled.users):
        with graph.inserting_before(user):
            if user.target is ours.convolution_grad_weight.default and user.args[1] is scaled and not user.args[6]:
                x, _, shape, *geometry = user.args
                gradient = graph.call_function(user.target, (x, dy, shape, *geometry))
                gradient.meta = dict(user.meta)
                result = _times(graph, gradient, scale, len(shape))
            elif user.target is ours.convolution_grad_input.default and user.args[0] is scaled and not user.args[6]:
                _, weight, size, *geometry = user.args
                result = graph.call_function(
                    user.target, (dy, _times(graph, weight, scale, 2 + len(size)), size, *geometry)
                )
            elif user.target is ours.channel_sum.default:
                result = graph.call_function(aten.mul.Tensor, (graph.call_function(user.target, (dy,)), scale))
            else:
                continue
        result.meta = dict(user.meta)
        user.replace_all_uses_with(result)
        graph.erase_node(user)


def _times(graph: fx.Graph, weight: Any, scale: Any, dims: int) -> fx.Node:
    """A weight (O, ...) with each of its O outputs scaled."""
    factors = graph.call_function(aten.view.default, (scale, [-1] + [1] * (dims - 1)))
    scaled = graph.call_function(aten.mul.Tensor, (weight, factors))
    scaled.meta = dict(weight.meta)
    return scaled


def _scatter_onto(graph: fx.Graph, add: fx.Node) -> None:
    """Scatter the few rows of an embedding's gradient straight onto what an optimizer adds to it.

    add(base, gradient) becomes gradient onto base, and add(other, gradient onto base) becomes gradient onto
    add(other, base).
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


def use_plain_softmax(module: fx.GraphModule) -> None:
    """Drop the guard of attention's softmax against rows that are masked completely, where there is no mask.

    There is none if the scores come from a matrix product through views alone.
    """
    for node in module.graph.find_nodes(op="call_function", target=aten._safe_softmax.default):  # noqa: SLF001
        source = node.all_input_nodes[0]
        while source.target in _VIEWS:
            source = source.all_input_nodes[0]
        if source.target in _PRODUCTS:
            with module.graph.inserting_before(node):
                plain = module.graph.call_function(aten._softmax.default, (*node.args[:2], False))  # noqa: SLF001
            node.replace_all_uses_with(plain)
            module.graph.erase_node(node)
    module.recompile()


def use_reshape(module: fx.GraphModule) -> None:
    """Turn views into reshapes: a view depends on a tensor's memory layout, which our operators do not keep."""
    for view in (aten.view.default, aten._unsafe_view.default):  # noqa: SLF001
        for node in module.graph.find_nodes(op="call_function", target=view):
            node.target = aten.reshape.default
    module.recompile()


def _mask_before_unpooling(graph: fx.Graph, relu_grad: fx.Node) -> None:
    """Turn relu_grad(max_pool_grad(dy, x, y), x) into max_pool_grad(relu_grad(dy, y), x, y), which masks fewer entries.

    Both are equal: a window's gradient goes to its maximum, whose sign is the sign of y.
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
