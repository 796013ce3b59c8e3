"""The two halves of a cut model as modules."""

from typing import Any, NamedTuple

from torch import fx, nn

from cutlayer_cut.traced import Parts, Traced

__all__ = ["Halves", "halves_of_modules", "halves_of_operations"]


class Halves(NamedTuple):
    """Both halves of a model; ``server(client(x))`` is bit-identical to ``model(x)``, in train and in eval mode.

    There is one exception: without gradients, torch runs a whole transformer encoder with other kernels than its parts,
    so the last bits differ in eval mode.

    The halves share their parameters with the model that was cut, and each parameter belongs to exactly one half.
    """

    client: nn.Module
    server: nn.Module


def halves_of_modules(traced: Traced, parts: Parts) -> Halves:
    """Halves made of the model's own modules."""
    client, server = parts.graphs()
    return Halves(fx.GraphModule(traced.root, client, "Client"), fx.GraphModule(traced.root, server, "Server"))


def halves_of_operations(training: tuple[Traced, Parts], evaluating: tuple[Traced, Parts]) -> Halves:
    """Halves made of traced operations, for train and for eval mode, with the model's parameters under its names."""
    (train_traced, train_parts), (eval_traced, eval_parts) = training, evaluating
    pairs = zip(train_parts.graphs(), eval_parts.graphs(), strict=True)
    return Halves(*(_TwoModes(train_traced, train_graph, eval_traced, eval_graph) for train_graph, eval_graph in pairs))


class _TwoModes(nn.Module):
    """Runs one graph in train mode and another in eval mode, with the same parameters."""

    def __init__(self, train: Traced, train_graph: fx.Graph, evaluate: Traced, eval_graph: fx.Graph) -> None:
        super().__init__()
        modules = [fx.GraphModule(train.root, train_graph), fx.GraphModule(evaluate.root, eval_graph)]
        for module in reversed(modules):
            _adopt(self, module)
        self._graphs = train_graph, eval_graph
        # Functions, not bound methods: called with this module, they find the parameters in it by name.
        self._train_forward, self._eval_forward = (type(module).forward for module in modules)

    @property
    def graph(self) -> fx.Graph:
        """The operations of the current mode."""
        return self._graphs[not self.training]

    def forward(self, x: Any) -> Any:
        """Run the graph of the current mode."""
        return (self._train_forward if self.training else self._eval_forward)(self, x)


def _adopt(target: nn.Module, source: nn.Module) -> None:
    """Register the parameters and buffers of ``source`` in ``target`` too, under the same names."""
    for name, parameter in source.named_parameters(recurse=False):
        target.register_parameter(name, parameter)
    for name, buffer in source.named_buffers(recurse=False):
        target.register_buffer(name, buffer, name not in source._non_persistent_buffers_set)  # noqa: SLF001
    for name, child in source.named_children():
        if name not in dict(target.named_children()):
            target.add_module(name, nn.Module())
        _adopt(target.get_submodule(name), child)
