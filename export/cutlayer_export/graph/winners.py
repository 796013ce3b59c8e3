"""Max pooling of windows of two by two whose backward pass wants one byte a window, instead of the pooled images.

The images are four times as large as what is pooled from them, and in float32: for VGG11 they were the greatest of what
forward kept for backward.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch.library import custom_op

import cutlayer_export.graph.operators  # noqa: F401 - registers the operators of pooling

__all__ = ["NONE", "keep_winners", "pool_winners", "unpool"]

aten, ours = torch.ops.aten, torch.ops.cutlayer
NONE = 4
"""The winner of a window through which no gradient goes back."""


@custom_op("cutlayer::pool_winners", mutates_args=())
def pool_winners(x: Tensor, y: Tensor, positive: bool) -> Tensor:
    """The place of each window's first greatest entry, row by row, 0 to 3.

    Args:
        x: images (B, C, 2 H, 2 W).
        y: the greatest entries (B, C, H, W).
        positive: whether a window whose greatest entry is not positive has the winner `NONE`, as before or after a ReLU.

    Returns:
        uint8 (B, C, H, W).
    """
    batch, channels, height, width = y.shape
    windows = x.reshape(batch, channels, height, 2, width, 2).transpose(3, 4).flatten(-2)
    winners = (windows == y[..., None]).byte().argmax(-1).byte()
    return winners.masked_fill(y <= 0, NONE) if positive else winners


@pool_winners.register_fake
def _(x: Tensor, y: Tensor, positive: bool) -> Tensor:
    return torch.empty_like(y, dtype=torch.uint8, memory_format=torch.contiguous_format)


@custom_op("cutlayer::unpool", mutates_args=())
def unpool(dy: Tensor, winners: Tensor) -> Tensor:
    """The gradient (B, C, 2 H, 2 W) of images that were pooled, of that of the result (B, C, H, W)."""
    batch, channels, height, width = dy.shape
    windows = dy[..., None] * (winners[..., None] == torch.arange(4, dtype=torch.uint8))
    squares = windows.reshape(batch, channels, height, width, 2, 2)
    return squares.transpose(3, 4).reshape(batch, channels, 2 * height, 2 * width)


@unpool.register_fake
def _(dy: Tensor, winners: Tensor) -> Tensor:
    batch, channels, height, width = dy.shape
    return dy.new_empty((batch, channels, 2 * height, 2 * width))


def keep_winners(module: fx.GraphModule) -> None:
    """Let backward passes of such pooling go by winners, in place; a ReLU just before or after it is a part of them."""
    for node in module.graph.find_nodes(op="call_function", target=ours.max_pool_grad.default):
        dy, x, y, *geometry = node.args
        if not _of_two_by_two(x, y, *geometry):
            continue
        masked = dy.target is ours.relu_grad.default and _rectified(dy.args[1], y) and len(dy.users) == 1
        with module.graph.inserting_before(node):
            winners = module.graph.call_function(ours.pool_winners.default, (x, y, masked))
            dx = module.graph.call_function(ours.unpool.default, (dy.args[0] if masked else dy, winners))
        winners.meta, dx.meta = dict(y.meta), dict(node.meta)
        node.replace_all_uses_with(dx)
    module.graph.eliminate_dead_code()
    module.recompile()


def _of_two_by_two(
    x: fx.Node, y: fx.Node, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> bool:
    size, out = (each.meta["val"].shape[2:] for each in (x, y))
    whole = all(full == 2 * pooled for full, pooled in zip(size, out, strict=True))
    return whole and (list(kernel), list(stride), list(padding), list(dilation)) == ([2, 2], [2, 2], [0, 0], [1, 1])


def _rectified(decides: Any, y: fx.Node) -> bool:
    """Whether a ReLU's gradient is decided by the sign of y."""
    return decides is y or (decides.target is aten.relu.default and decides.args[0] is y)
