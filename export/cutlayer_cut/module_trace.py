"""A model traced down to the modules beside the cut: they stay whole, with their names and their train/eval behaviour."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from cutlayer_cut.modes import mode
from cutlayer_cut.traced import Traced, Untraceable

__all__ = ["trace_modules"]


def trace_modules(model: nn.Module, name: str, example: Tensor) -> Traced:
    """Trace only the containers of the module ``name``; every other module is one node.

    Raises:
        Untraceable: a container computes with Python what depends on its input, or does not call the module once.
    """
    tracer = _Tracer(name)
    try:
        graph = tracer.trace(model)
        root = tracer.root
        assert isinstance(root, nn.Module)
        with torch.no_grad(), mode(model, training=False):
            _Recorder(fx.GraphModule(root, graph)).run(example)
    except Exception as error:  # whatever the user's code raises when it meets a proxy
        raise Untraceable(str(error).strip().split("\n", 1)[0]) from error
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == name]
    if len(calls) != 1:
        raise Untraceable(f"it is called {len(calls)} times")
    [call] = calls
    if isinstance(call.meta["val"], Tensor):
        return Traced(graph, root, [call])
    return Traced(graph, root, [user for user in call.users if user.target is operator.getitem])


class _Tracer(fx.Tracer):
    """Traces into the containers of the cut and treats every other module as a leaf."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return not self._name.startswith(qualified_name + ".")


class _Recorder(fx.Interpreter):
    """Notes in each node's ``meta["val"]`` what it computes for an example."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._targets = {node.name: node for node in module.graph.nodes}

    def run_node(self, n: fx.Node) -> Any:
        """Run and note."""
        n.meta["val"] = super().run_node(n)
        return n.meta["val"]
