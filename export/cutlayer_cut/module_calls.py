"""Calls of a model's modules, seen while they happen; without hooks, since some modules take another path with them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import fx, nn

__all__ = ["Around", "calls_through"]

Around = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Makes a call: takes the module's name, what is to be called, its arguments, and its keyword arguments."""


@contextmanager
def calls_through(model: nn.Module, around: Around) -> Iterator[None]:
    """Have ``around`` make every call of a module in ``model``, and of an operation in a half that was traced."""
    with ExitStack() as stack:
        for name, module in list(model.named_modules())[1:]:
            if not isinstance(module, torch.jit.ScriptModule):  # whose forward cannot be replaced
                stack.enter_context(_forward_of(module, _through(around, name, module.forward)))
        stack.enter_context(_operations_of(model, around))
        yield


def _through(around: Around, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: around(name, forward, args, kwargs)


@contextmanager
def _forward_of(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


@contextmanager
def _operations_of(half: nn.Module, around: Around) -> Iterator[None]:
    if not isinstance(getattr(half, "graph", None), fx.Graph):
        yield
        return
    with _forward_of(half, lambda *args: _ByOperation(half, around).run(*args)):
        yield


class _ByOperation(fx.Interpreter):
    """Runs the operations of a half, and notes the module that each was traced in."""

    def __init__(self, half: Any, around: Around) -> None:
        super().__init__(half, graph=half.graph)
        self.extra_traceback = False
        self._around, self._module = around, ""

    def run_node(self, n: fx.Node) -> Any:
        path = [each for each, _ in n.meta.get("nn_module_stack", {}).values() if each]
        self._module = path[-1] if path else ""
        return super().run_node(n)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._around(self._module, target, args, kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        owner, *others = args
        return self._around(self._module, getattr(owner, target), tuple(others), kwargs)
