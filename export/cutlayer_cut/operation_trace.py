"""A model traced down to ATen operations, for containers that a trace of modules cannot follow.

Tracing fixes whether an operation such as dropout is in train or eval mode, so a model is traced once in each.
"""

from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from cutlayer_cut.modes import unchanged
from cutlayer_cut.operation_marks import Marks
from cutlayer_cut.paths import users_line
from cutlayer_cut.traced import AUTOCAST, NO_GRADIENT, Traced, Untraceable, prune
from cutlayer_cut.tracing import tracing

__all__ = ["OperationTrace"]

_GRADIENT_REGION = torch.ops.higher_order.wrap_with_set_grad_enabled
_AUTOCAST_REGION = torch.ops.higher_order.wrap_with_autocast


class OperationTrace:
    """The whole model as one graph, in its current mode, for batches of any size.

    Args:
        model: the model to trace.
        example: a batch of inputs.

    Raises:
        Untraceable: the model's Python code depends on the values of its input, or on one batch size.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self._marks = Marks()
        try:
            with tracing(), self._marks.on(model), torch.enable_grad(), unchanged(model):
                batch = {0: torch.export.Dim.DYNAMIC}
                program = torch.export.export(model, (example,), dynamic_shapes=(batch,), strict=False)
        except Exception as error:  # torch.export has no common base for what it refuses
            raise Untraceable(_reason(error)) from error
        module = program.module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        _without_regions(module)
        if module.graph.find_nodes(op="call_function", target=_AUTOCAST_REGION):
            raise Untraceable(AUTOCAST)
        self._root = {node.target: _attribute(model, module, node) for node in module.graph.find_nodes(op="get_attr")}
        outputs = self._marks.remove(module.graph)
        prune(module.graph)
        self._graph, copies = _plain(module.graph)
        self._outputs = {name: [copies[node] for node in nodes if node in copies] for name, nodes in outputs.items()}

    def at(self, name: str) -> Traced:
        """The trace with the outputs of one module's last call. Raises `Untraceable` if it is not called."""
        if not self._marks.calls[name]:
            raise Untraceable("the model does not call it")
        return Traced(self._graph, self._root, self._outputs.get(name, []))


def _reason(error: Exception) -> str:
    line = users_line(error)
    if isinstance(error, GuardOnDataDependentSymNode):
        return f"its code decides by the values of tensors{f' at {line}' if line else ''}"
    return str(error).strip().split("\n", 1)[0] + (f" at {line}" if line else "")


def _without_regions(module: fx.GraphModule) -> None:
    """Put the operations of ``no_grad`` regions, which are graphs of their own, in place of the regions."""
    graph = module.graph
    for region in graph.find_nodes(op="call_function", target=_GRADIENT_REGION):
        enabled, holder, *given = region.args
        inner = getattr(module, holder.target)
        _without_regions(inner)
        values = dict(zip(inner.graph.find_nodes(op="placeholder"), given, strict=True))
        with graph.inserting_before(region):
            graph.graph_copy(inner.graph, values)
        for node, copy in values.items():
            if node.op != "placeholder":
                copy.meta.setdefault(NO_GRADIENT, not enabled)
        [results] = inner.graph.output_node().args
        for user in list(region.users):  # each takes one of the results
            user.replace_all_uses_with(values[results[user.args[1]]])
            graph.erase_node(user)
        graph.erase_node(region)
        graph.erase_node(holder)


def _plain(graph: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A copy of the graph with a lone output unwrapped, and the copy of each node."""
    plain, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        copies[node] = plain.node_copy(node, lambda each: copies[each])
    end = plain.output_node()
    [result] = end.args
    if isinstance(result, (tuple, list)) and len(result) == 1:
        end.args = (result[0],)
    return plain, copies


def _attribute(model: nn.Module, traced: nn.Module, node: fx.Node) -> Any:
    """The model's own parameter or buffer, or a constant that tracing has put into the traced module."""
    for holder in (model, traced):
        try:
            return reduce(getattr, str(node.target).split("."), holder)
        except AttributeError:
            continue
    raise Untraceable(f"nothing is at {node.target}")
