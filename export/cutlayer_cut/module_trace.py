"""Traces a model only as far as the cut needs: other modules stay whole, with their names and train/eval behaviour."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cutlayer_cut.modes import mode, unchanged
from cutlayer_cut.traced import Traced, Untraceable, prune

__all__ = ["trace_modules"]


def trace_modules(model: nn.Module, name: str, example: Tensor) -> Traced:
    """Trace only the containers of the module ``name``; every other module is one node.

    Raises:
        Untraceable: a container's Python code depends on its input, or does not call the module exactly once.
    """
    tracer = _Tracer(name)
    try:
        graph = _same_in_both_modes(model, tracer)
        root = tracer.root
        assert isinstance(root, nn.Module)
        with torch.no_grad(), mode(model, training=False), unchanged(model):
            _record(fx.GraphModule(root, graph), example)
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

    proxy_buffer_attributes = True  # so that the graph updates the buffers that a container updates

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return not self._name.startswith(qualified_name + ".")


def _same_in_both_modes(model: nn.Module, tracer: fx.Tracer) -> fx.Graph:
    with mode(model, training=False), unchanged(model):
        evaluating = tracer.trace(model)
    with mode(model, training=True), unchanged(model):
        training = tracer.trace(model)
    if str(training) != str(evaluating):
        raise Untraceable("it computes otherwise in train mode than in eval mode")
    prune(training)
    return training


def _record(module: fx.GraphModule, example: Tensor) -> None:
    """Record each node's result, from fake tensors or, if a module looks at its input's values, from a real run."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            _Recorder(module).run(fake.from_tensor(example))
    except Exception:  # noqa: BLE001 - the run that follows raises what is the model's own fault
        _Recorder(module).run(example)


class _Recorder(fx.Interpreter):
    """Stores what each node computes for an example in its ``meta["val"]``."""

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and store its result."""
        n.meta["val"] = super().run_node(n)
        return n.meta["val"]
