"""Traces a model only as far as the cut needs: other modules stay whole, with their names and train/eval behaviour."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from cutlayer_cut.kept_calls import Applied, functions_kept
from cutlayer_cut.modes import mode, unchanged
from cutlayer_cut.traced import AUTOCAST, NO_GRADIENT, Traced, Unfollowed, Untraceable, prune

__all__ = ["trace_modules"]


def trace_modules(model: nn.Module, name: str, example: Tensor) -> Traced:
    """Trace only the containers of the module ``name``; every other module is one node.

    Raises:
        Untraceable: a container's Python code depends on its input, or does not call the module.
    """
    tracer = _Tracer(name)
    try:
        graph = _same_in_both_modes(model, tracer)
        root = tracer.root
        assert isinstance(root, nn.Module)
        with torch.no_grad(), mode(model, training=False), unchanged(model):
            _Recorder(fx.GraphModule(root, graph)).run(example)
    except Untraceable:
        raise
    except Exception as error:  # whatever the user's code raises when it meets a proxy
        raise Unfollowed(str(error).strip().split("\n", 1)[0]) from error
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
    if not calls:
        raise Untraceable("the model does not call it")
    call = calls[-1]
    if isinstance(call.meta["val"], Tensor):
        return Traced(graph, root, [call])
    return Traced(graph, root, [user for user in call.users if user.target is operator.getitem])


class _Tracer(fx.Tracer):
    """Traces into the containers of the cut and treats every other module as a leaf."""

    proxy_buffer_attributes = True  # so that the graph updates the buffers that a container updates

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return not self._name.startswith(qualified_name + ".")

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Create a node that remembers the gradient mode that it is traced in."""
        if torch.is_autocast_enabled("cpu"):
            raise Untraceable(AUTOCAST)
        node = super().create_node(*args, **kwargs)
        if not torch.is_grad_enabled():
            node.meta[NO_GRADIENT] = True
        return node

    def apply(
        self, apply: Callable[..., Any], function: type[torch.autograd.Function], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """Record a call of an ``autograd.Function`` as one node, so that its own backward is used."""
        if not any(isinstance(each, fx.Proxy) for each in args):
            return apply(*args, **kwargs)
        return self.create_proxy("call_function", Applied(function), args, kwargs)


def _same_in_both_modes(model: nn.Module, tracer: _Tracer) -> fx.Graph:
    graphs = []
    for training in (False, True):
        with mode(model, training), unchanged(model), torch.enable_grad(), functions_kept(tracer.apply):
            graphs.append(tracer.trace(model))
            _require_no_new_buffers(model)
    evaluating, training_graph = graphs
    if str(training_graph) != str(evaluating):
        raise Untraceable("it computes otherwise in train mode than in eval mode")
    prune(training_graph)
    return training_graph


def _require_no_new_buffers(model: nn.Module) -> None:
    """A buffer that a container replaces has become a part of the trace, which would not put it back."""
    for name, module in model.named_modules():
        for own, buffer in module._buffers.items():  # noqa: SLF001 - named_buffers skips what is no tensor
            if isinstance(buffer, fx.Proxy):
                raise Untraceable(f"the code around it replaces the buffer {f'{name}.{own}'.lstrip('.')!r}")


class _Recorder(fx.Interpreter):
    """Notes what each node computes for an example in its ``meta["val"]``; of tensors, all but their values."""

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and note its result."""
        result = super().run_node(n)
        n.meta["val"] = tree_map_only(Tensor, lambda each: torch.empty_like(each, device="meta"), result)
        return result
