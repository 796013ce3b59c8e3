"""Remembers which module of the user's model each traced operation comes from, so that an error can name it."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import traceback
from torch.utils._pytree import tree_leaves

from cutlayer_cut import calls_through

__all__ = ["Owners", "owner_of", "owner_of_named"]

_KEY = "module"


class Owners:
    """The modules of a client while it is traced, forward and backward.

    A trace notes the innermost module that runs; backward, the one whose forward pass made the step of autograd's graph.
    """

    def __init__(self) -> None:
        self._failed: str | None = None
        self._current = ""
        self._steps: dict[Any, str] = {}

    @contextmanager
    def of(self, client: nn.Module) -> Iterator[None]:
        """Trace ``client``'s forward passes, and what autograd makes of them, with their modules' names."""
        with ExitStack() as stack:
            stack.enter_context(traceback.preserve_node_meta())
            stack.enter_context(traceback.annotate({_KEY: ""}))
            stack.enter_context(calls_through(client, self._called))
            yield

    def replay(self, module: fx.GraphModule) -> fx.Interpreter:
        """Runs a graph that was traced with names so that another trace keeps them."""
        return _Replay(self, module)

    def blame(self, name: str | None) -> None:
        """Note the module in which something went wrong; the first one counts, which is the innermost."""
        self._failed = name if self._failed is None else self._failed

    def blamed(self) -> str:
        """`` (in the module 'layer.0')`` where something went wrong; empty if nothing did."""
        return _in_words(self._failed)

    def _called(self, name: str, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run ``call`` as the module ``name``."""
        outer = self._current
        self._claim(args, outer)  # what comes in is made by others
        self._current = name
        try:
            with traceback.annotate({_KEY: name}):
                result = call(*args, **kwargs)
        except Exception:
            self.blame(name)
            raise
        finally:
            self._current = outer
        self._claim(result, name)
        return result

    def _claim(self, tensors: Any, name: str) -> None:
        """Note the module of all steps of autograd's graph that lead to these tensors and belong to nobody yet."""
        pending = [each.grad_fn for each in tree_leaves(tensors) if isinstance(each, Tensor)]
        while pending:
            step = pending.pop()
            if step is None or step in self._steps:
                continue
            self._steps[step] = name
            self._annotate(step, name)
            pending.extend(before for before, _ in step.next_functions)

    def _annotate(self, step: Any, name: str) -> None:
        running: list[Any] = []

        def begin(_gradients: Any) -> None:
            running.append(traceback.annotate({_KEY: name}))
            running[-1].__enter__()

        def end(_inputs: Any, _outputs: Any) -> None:
            if running:
                running.pop().__exit__(None, None, None)

        step.register_prehook(begin)
        step.register_hook(end)


class _Replay(fx.Interpreter):
    """Runs a traced graph so that what is traced anew keeps the modules' names."""

    def __init__(self, owners: Owners, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self._owners = owners

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation."""
        try:
            return super().run_node(n)
        except Exception:
            self._owners.blame(_name(n))
            raise


def owner_of(node: fx.Node) -> str:
    """`` (in the module 'layer.0')`` for a traced operation; empty if that is not known."""
    return _in_words(_name(node))


def owner_of_named(module: fx.GraphModule, text: str) -> str:
    """The same for the first operation of a trace that ``text`` names."""
    names = [each.removesuffix("_backward").strip("_") for each in re.findall(r"(?:aten|prims)(?:::|\.)(\w+)", text)]
    nodes = [node for node in module.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]  # noqa: SLF001
    for alike in (_same, _similar):
        for name in names:
            for node in nodes:
                if _name(node) is not None and alike(name, node.target.name().split("::")[1].split(".")[0].strip("_")):
                    return owner_of(node)
    return ""


def _same(name: str, operation: str) -> bool:
    return name == operation


def _similar(name: str, operation: str) -> bool:
    """Whether an operation may have become the other: ``special_i0`` is decomposed to ``i0``."""
    return name.rsplit("_", maxsplit=1)[-1] == operation.rsplit("_", maxsplit=1)[-1]


def _name(node: fx.Node) -> str | None:
    found: str | None = (node.meta.get("custom") or {}).get(_KEY)
    return found


def _in_words(name: str | None) -> str:
    if name is None:
        return ""
    return f" (in the module {name!r})" if name else " (in the model's own code)"
