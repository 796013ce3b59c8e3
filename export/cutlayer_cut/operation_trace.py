"""A model traced down to ATen operations, for containers that a trace of modules cannot follow.

Tracing fixes whether an operation such as dropout is in train or eval mode, so a model is traced once in each.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from cutlayer_cut.modes import unchanged
from cutlayer_cut.traced import Traced, Untraceable, prune

__all__ = ["OperationTrace"]


@torch.library.custom_op("cutlayer::output_of", mutates_args=())
def output_of(tensor: Tensor, name: str) -> Tensor:
    """Mark a tensor as an output of the module ``name`` while a model is traced."""
    return tensor.clone()


@output_of.register_fake
def _(tensor: Tensor, name: str) -> Tensor:
    return torch.empty_like(tensor)


class OperationTrace:
    """The whole model as one graph, in its current mode, for batches of any size.

    Args:
        model: the model to trace.
        example: a batch of inputs.

    Raises:
        Untraceable: the model's Python code depends on the values of its input, or on one batch size.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self._calls = Counter[str]()
        try:
            with _marked(model, self._calls), torch.no_grad(), unchanged(model):
                batch = {0: torch.export.Dim.DYNAMIC}
                program = torch.export.export(model, (example,), dynamic_shapes=(batch,), strict=False)
        except Exception as error:  # torch.export has no common base for what it refuses
            raise Untraceable(str(error).strip().split("\n", 1)[0]) from error
        module = program.module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        self._root = {node.target: _attribute(model, module, node) for node in module.graph.find_nodes(op="get_attr")}
        self._graph, self._outputs = _unmarked(module.graph)

    def at(self, name: str) -> Traced:
        """The trace with the outputs of one module. Raises `Untraceable` if that is not called exactly once."""
        if self._calls[name] != 1:
            raise Untraceable(f"it is called {self._calls[name]} times")
        return Traced(self._graph, self._root, self._outputs.get(name, []))


@contextmanager
def _marked(model: nn.Module, calls: Counter[str]) -> Iterator[None]:
    """Make every module mark its outputs; without hooks, since some modules take another path when they have any."""
    with ExitStack() as stack:
        for name, module in list(model.named_modules())[1:]:
            stack.enter_context(_marking(module, name, calls))
        yield


@contextmanager
def _marking(module: nn.Module, name: str, calls: Counter[str]) -> Iterator[None]:
    forward, own = module.forward, module.__dict__.get("forward")

    def marked(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return tree_map_only(Tensor, lambda each: output_of(each, name), forward(*args, **kwargs))

    module.forward = marked
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _unmarked(graph: fx.Graph) -> tuple[fx.Graph, dict[str, list[fx.Node]]]:
    """The graph without marks and with a lone output unwrapped, and the nodes that were marked, by module name."""
    outputs: dict[str, list[fx.Node]] = {}
    for mark in graph.find_nodes(op="call_function", target=torch.ops.cutlayer.output_of.default):
        tensor, name = mark.args
        outputs.setdefault(name, []).append(tensor)
        mark.replace_all_uses_with(tensor)
        graph.erase_node(mark)
    prune(graph)
    plain, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        copies[node] = plain.node_copy(node, lambda each: copies[each])
    end = plain.output_node()
    [result] = end.args
    if isinstance(result, (tuple, list)) and len(result) == 1:
        end.args = (result[0],)
    return plain, {name: [copies[node] for node in nodes] for name, nodes in outputs.items()}


def _attribute(model: nn.Module, traced: nn.Module, node: fx.Node) -> Any:
    """The model's own parameter or buffer, or a constant that tracing has put into the traced module."""
    for holder in (model, traced):
        try:
            return reduce(getattr, str(node.target).split("."), holder)
        except AttributeError:
            continue
    raise Untraceable(f"nothing is at {node.target}")
