"""Marks in a trace of operations: which tensors a module gives, and which go into and out of an ``autograd.Function``."""

import operator
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from cutlayer_cut.kept_calls import Applied, functions_kept
from cutlayer_cut.module_calls import calls_through
from cutlayer_cut.traced import Untraceable

__all__ = ["Marks"]

_Nodes = list[fx.Node]


@torch.library.custom_op("cutlayer::output_of", mutates_args=())
def output_of(tensor: Tensor, name: str, call: int) -> Tensor:
    """Mark an output of the module ``name`` when it is called for the ``call``-th time."""
    return tensor.clone()


@torch.library.custom_op("cutlayer::argument_of", mutates_args=())
def argument_of(tensor: Tensor, call: int, place: int) -> Tensor:
    """Mark an argument of a call of an ``autograd.Function``."""
    return tensor.clone()


@torch.library.custom_op("cutlayer::result_of", mutates_args=())
def result_of(tensor: Tensor, call: int, place: int) -> Tensor:
    """Mark a result of a call of an ``autograd.Function``; ``place`` is -1 for a result that is no tuple."""
    return tensor.clone()


for _mark in (output_of, argument_of, result_of):
    _mark.register_fake(lambda tensor, *_: torch.empty_like(tensor))
_OUTPUT, _ARGUMENT, _RESULT = (
    getattr(torch.ops.cutlayer, name).default for name in ("output_of", "argument_of", "result_of")
)


class Marks:
    """Makes the modules and functions of a model mark what they give, and takes the marks out of the trace again."""

    def __init__(self) -> None:
        self.calls = Counter[str]()
        """How often each module was called."""
        self._applied: list[tuple[type[torch.autograd.Function], tuple[Any, ...]]] = []

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Mark while this context lasts."""
        with ExitStack() as stack:
            stack.enter_context(calls_through(model, self._called))
            stack.enter_context(functions_kept(self._apply))
            yield

    def remove(self, graph: fx.Graph) -> dict[str, _Nodes]:
        """Put one call in place of what each ``autograd.Function`` did; returns what each module's last call gives."""
        for number, (function, args) in enumerate(self._applied):
            self._restore(graph, number, function, args)
        outputs: dict[str, _Nodes] = {}
        for mark in graph.find_nodes(op="call_function", target=_OUTPUT):
            tensor, name, call = mark.args
            mark.replace_all_uses_with(tensor)
            graph.erase_node(mark)
            if call == self.calls[name]:
                outputs.setdefault(name, []).append(tensor)
        return outputs

    def _called(self, name: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = call(*args, **kwargs)
        self.calls[name] += 1
        return tree_map_only(Tensor, lambda each: output_of(each, name, self.calls[name]), found)

    def _apply(
        self, apply: Callable[..., Any], function: type[torch.autograd.Function], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        if kwargs or any(isinstance(each, torch.SymInt | torch.SymFloat) for each in args):
            raise Untraceable(f"{function.__name__}.apply is given a number that depends on the batch size")
        number = len(self._applied)
        self._applied.append((function, args))
        marked = [argument_of(each, number, at) if isinstance(each, Tensor) else each for at, each in enumerate(args)]
        found = apply(*marked)
        if isinstance(found, Tensor):
            return result_of(found, number, -1)
        return tuple(result_of(each, number, at) if isinstance(each, Tensor) else each for at, each in enumerate(found))

    def _restore(
        self, graph: fx.Graph, number: int, function: type[torch.autograd.Function], args: tuple[Any, ...]
    ) -> None:
        given, results = (
            [node for node in graph.find_nodes(op="call_function", target=target) if node.args[1] == number]
            for target in (_ARGUMENT, _RESULT)
        )
        places = {node.args[2]: node for node in given}
        values = [places[at].args[0] if at in places else each for at, each in enumerate(args)]
        if results and not any(isinstance(each, Tensor) for each in values):
            with graph.inserting_before(results[0]):
                call = graph.call_function(Applied(function), tuple(values))
            call.meta = dict(results[0].meta)
            for result in results:
                with graph.inserting_before(result):
                    whole = result.args[2] == -1
                    found = call if whole else graph.call_function(operator.getitem, (call, result.args[2]))
                found.meta = dict(result.meta)
                result.replace_all_uses_with(found)
        for node in results:
            graph.erase_node(node)
        for node in given:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
