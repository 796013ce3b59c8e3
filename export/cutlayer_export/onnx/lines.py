"""Keeps images as lines, (H * B, C, W), between the layers that `graph.winograd` transforms.

Its products want the height outermost. Turning images around takes about as long as a pass of BatchNorm, and whatever
treats each entry or each channel alike gives the same for lines as for images, so it is moved to lines.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch.library import custom_op

from cutlayer_export.graph import winograd

__all__ = ["keep_lines"]

aten, ours = torch.ops.aten, torch.ops.cutlayer
_EACH = {
    aten.add.Tensor, aten.mul.Tensor, aten.relu.default, ours.between_grad.default, ours.relu_grad.default,
    ours.scale_channels.default, ours.scale_shift.default,
}  # fmt: skip
"""Operations on each entry, or on each entry and numbers of its channel, whose result is as large."""
_NORMS = {ours.batch_norm_train.default, aten._native_batch_norm_legit_no_training.default}  # noqa: SLF001
"""Those whose first result is an image, and whose others are numbers of each channel."""
_IMAGE = 4
_SUMS = {aten.sym_numel.default, ours.channel_sum.default}
"""Those whose result is a number of each channel, or of all entries."""


@custom_op("cutlayer::to_lines", mutates_args=())
def to_lines(x: Tensor) -> Tensor:
    """Images (B, C, H, W) as lines (H * B, C, W)."""
    return x.permute(2, 0, 1, 3).reshape(-1, x.shape[1], x.shape[3]).contiguous()


@to_lines.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0] * x.shape[2], x.shape[1], x.shape[3])


@custom_op("cutlayer::from_lines", mutates_args=())
def from_lines(lines: Tensor, height: int) -> Tensor:
    """Lines (H * B, C, W) as images (B, C, H, W)."""
    return lines.reshape(height, -1, *lines.shape[1:]).permute(1, 2, 0, 3).contiguous()


@from_lines.register_fake
def _(lines: Tensor, height: int) -> Tensor:
    return lines.new_empty(lines.shape[0] // height, lines.shape[1], height, lines.shape[2])


@custom_op("cutlayer::spread_lines", mutates_args=())
def spread_lines(lines: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`winograd.spread` of lines."""
    result: Tensor = winograd.spread(from_lines(lines, rows.shape[1]), rows, columns)
    return result


@spread_lines.register_fake
def _(lines: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return lines.new_empty(rows.shape[0], columns.shape[0], lines.shape[0] // rows.shape[1], lines.shape[1])


@custom_op("cutlayer::collect_lines", mutates_args=())
def collect_lines(y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`winograd.collect` as lines."""
    result: Tensor = to_lines(winograd.collect(y, rows, columns))
    return result


@collect_lines.register_fake
def _(y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return y.new_empty(rows.shape[1] * y.shape[2], y.shape[3], columns.shape[1])


def keep_lines(module: fx.GraphModule) -> None:
    """Let transforms take and give lines, in place, and keep lines from one to the next as far as that is possible."""
    graph = module.graph
    for node in list(graph.nodes):
        with graph.inserting_before(node):
            if node.target is ours.spread.default:
                lines = graph.call_function(ours.to_lines.default, (node.args[0],))
                _replace(graph, node, ours.spread_lines.default, (lines, *node.args[1:]))
            elif node.target is ours.collect.default:
                _replace_image(graph, node, ours.collect_lines.default, node.args)
            elif node.target in _EACH and _has_lines(node):
                _replace_image(graph, node, node.target, _as_lines(graph, node), node.kwargs)
            elif node.target in _NORMS and _has_lines(node):
                _replace_norm(graph, node)
            elif node.target in _SUMS and _has_lines(node):
                _replace(graph, node, node.target, _as_lines(graph, node))
    for node in graph.find_nodes(op="call_function", target=ours.to_lines.default):
        source: Any = node.args[0]
        if source.target is ours.from_lines.default:
            node.replace_all_uses_with(source.args[0])
    graph.eliminate_dead_code()
    module.recompile()


def _has_lines(node: fx.Node) -> bool:
    """Whether an operation reads lines, and everything else that it reads means the same for lines."""
    read = [each for each in node.args if isinstance(each, fx.Node)]
    images = [each for each in read if each.target is ours.from_lines.default]
    if not images:
        return False
    shape = tuple(images[0].meta["val"].shape)
    return all(_shape(each) in (shape, (shape[1], 1, 1)) or len(_shape(each)) < 2 for each in read)


def _shape(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else (None,) * 9


def _as_lines(graph: fx.Graph, node: fx.Node) -> tuple[Any, ...]:
    """The arguments of an operation on images, for the same operation on lines."""
    return tuple(_argument(graph, each) for each in node.args)


def _argument(graph: fx.Graph, value: Any) -> Any:
    if not isinstance(value, fx.Node):
        return value
    if value.target is ours.from_lines.default:
        return value.args[0]
    rank = len(_shape(value))
    if rank == _IMAGE:
        return graph.call_function(ours.to_lines.default, (value,))
    return graph.call_function(aten.squeeze.dim, (value, -1)) if rank == _IMAGE - 1 else value


def _replace(graph: fx.Graph, node: fx.Node, target: Any, args: tuple[Any, ...]) -> None:
    made = graph.call_function(target, args)
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _replace_image(
    graph: fx.Graph, node: fx.Node, target: Any, args: tuple[Any, ...], options: dict[str, Any] | None = None
) -> None:
    image = _image_of(graph, graph.call_function(target, args, options), node)
    node.replace_all_uses_with(image)
    graph.erase_node(node)


def _replace_norm(graph: fx.Graph, node: fx.Node) -> None:
    made = graph.call_function(node.target, _as_lines(graph, node))  # type: ignore[arg-type]
    for user in list(node.users):
        user.args = (made, user.args[1])
        if user.args[1] == 0:
            readers = list(user.users)
            with graph.inserting_after(user):
                image = _image_of(graph, user, user)
            for reader in readers:
                reader.replace_input_with(user, image)
    graph.erase_node(node)


def _image_of(graph: fx.Graph, lines: fx.Node, like: fx.Node) -> fx.Node:
    """The image of lines, which nobody computes if nobody reads it."""
    image = graph.call_function(ours.from_lines.default, (lines, like.meta["val"].shape[2]))
    image.meta = dict(like.meta)
    return image
