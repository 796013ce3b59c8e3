"""Puts Winograd's convolutions into a traced training graph, where they pay."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.proxy import GraphAppendingTracer

from cutlayer_export.graph import winograd
from cutlayer_export.graph.toom_cook import PATCH
from cutlayer_export.graph.winograd import Layer

__all__ = ["gain", "layers_that_gain", "use_winograd"]

aten, ours = torch.ops.aten, torch.ops.cutlayer
_FORWARD, _WEIGHT, _INPUT = (
    aten.convolution.default,
    ours.convolution_grad_weight.default,
    ours.convolution_grad_input.default,
)

_FEW = 16
"""Layers of fewer channels stay direct: some gain and some lose, and all are small, so they keep their last places."""


def gain(layer: Layer) -> float:
    """About how many times as fast a layer and its gradients are by Winograd's way; 0 for fewer than 16 channels.

    Products, each with a weight that was fitted to times of both ways at 55 shapes; `benchmarks/convolutions.py` shows
    how well that fits.
    """
    (height, width), (out_height, out_width) = layer.size, layer.out
    tall, wide = (PATCH * tiles for tiles in layer.tiles)
    channels = layer.inputs + layer.outputs
    if min(layer.inputs, layer.outputs) < _FEW:
        return 0.0
    direct = 27 * out_height * out_width * (layer.inputs * layer.outputs + 8 * channels)
    transforms = wide * (width * height + tall * height) * 2 * channels
    products = 3 * tall * wide * layer.inputs * layer.outputs
    return direct / (2 * (products + 0.8 * transforms + 4 * tall * wide * channels))


def use_winograd(module: fx.GraphModule, least_gain: float) -> None:
    """Replace the convolutions that gain at least as much, and their gradients, in place."""
    writer = _Writer(module)
    for node, layer in layers_that_gain(module, least_gain):
        writer.replace(node, layer)
    module.graph.eliminate_dead_code()
    module.recompile()


def layers_that_gain(module: fx.GraphModule, least_gain: float) -> list[tuple[fx.Node, Layer]]:
    """The convolutions, and gradients of convolutions, that gain at least as much."""
    nodes = [each for each in module.graph.nodes if each.target in (_FORWARD, _WEIGHT, _INPUT)]
    return [(each, layer) for each in nodes if (layer := _layer(each)) is not None and gain(layer) >= least_gain]


def _layer(node: fx.Node) -> Layer | None:
    """What a convolution or one of its gradients is; None unless Winograd's way can compute it."""
    args: Any = node.args
    if node.target is _FORWARD:
        x, weight, _, *geometry = args
        shape, size = weight.meta["val"].shape, x.meta["val"].shape[2:]
    elif node.target is _WEIGHT:
        x, _, shape, *geometry = args
        size = x.meta["val"].shape[2:]
    else:
        _, weight, size, *geometry = args
        shape = weight.meta["val"].shape
    stride, padding, dilation, transposed, _, groups = geometry
    plain = not transposed and groups == 1 and list(shape[2:]) == [3, 3] and {*stride, *dilation} == {1}
    if not plain or max(padding) > 2 or any(not isinstance(each, int) for each in size):
        return None
    layer = Layer(shape[1], shape[0], (size[0], size[1]), (padding[0], padding[1]))
    return layer if min(layer.out) > 0 else None


class _Writer:
    """Writes the operations of Winograd's convolutions into a graph; what was transformed once is not transformed again."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._tracer = _Tracer(module)
        self._graph = module.graph
        self._transformed: dict[tuple[str, fx.Node, Layer], fx.Proxy] = {}

    def replace(self, node: fx.Node, layer: Layer) -> None:
        """Replace a convolution or one of its gradients."""
        args: Any = node.args
        self._tracer.origin = node
        with self._graph.inserting_before(node):
            if node.target is _FORWARD:
                x, weight, bias = args[:3]
                result = winograd.forward(self._x(x, layer), self._proxy(weight), layer)
                if bias is not None:
                    result = self._with_bias(result, bias, node)
            elif node.target is _WEIGHT:
                x, dy = args[:2]
                result = winograd.grad_weight(self._x(x, layer), self._dy(dy, layer), layer)
            else:
                dy, weight = args[:2]
                result = winograd.grad_input(self._dy(dy, layer), self._proxy(weight), layer)
        result.node.meta = dict(node.meta)
        node.replace_all_uses_with(result.node)
        self._graph.erase_node(node)

    def _with_bias(self, result: fx.Proxy, bias: fx.Node, like: fx.Node) -> fx.Proxy:
        shift = aten.view.default(self._proxy(bias), [-1, 1, 1])
        result.node.meta = dict(like.meta)
        shift.node.meta["val"] = bias.meta["val"].view(-1, 1, 1)
        total: fx.Proxy = aten.add.Tensor(result, shift)
        return total

    def _x(self, x: fx.Node, layer: Layer) -> fx.Proxy:
        return self._once("x", x, layer, winograd.transformed_x)

    def _dy(self, dy: fx.Node, layer: Layer) -> fx.Proxy:
        return self._once("dy", dy, layer, winograd.transformed_dy)

    def _once(self, name: str, node: fx.Node, layer: Layer, transform: Callable[[Any, Layer], Any]) -> fx.Proxy:
        key = (name, node, layer)
        if key not in self._transformed:
            self._transformed[key] = transform(self._proxy(node), layer)
        return self._transformed[key]

    def _proxy(self, node: fx.Node) -> fx.Proxy:
        return fx.Proxy(node, self._tracer)


class _Tracer(GraphAppendingTracer):
    """Keeps constant tensors as attributes of the module, and where operations come from as that of ``origin``."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module.graph)
        self._module = module
        self.origin: fx.Node | None = None

    def create_node(self, *args: Any, **options: Any) -> fx.Node:
        """A new operation."""
        node = super().create_node(*args, **options)
        if self.origin is not None and "custom" in self.origin.meta:
            node.meta["custom"] = self.origin.meta["custom"]
        return node

    def create_arg(self, a: Any) -> Any:
        """An argument of an operation as a graph holds it."""
        if not isinstance(a, Tensor):
            return super().create_arg(a)
        same = (n for n, each in self._module.named_buffers() if each.dtype == a.dtype and torch.equal(each, a))
        if not (name := next(same, "")):
            name = f"_constant_{len(list(self._module.buffers()))}"
            self._module.register_buffer(name, a)
        return self.graph.get_attr(name)
