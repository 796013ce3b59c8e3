"""The two halves of a cut model as modules."""

from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from cutlayer_cut.traced import Parts, Traced

__all__ = ["Halves", "halves_of_modules", "halves_of_operations", "keep_names"]


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


def keep_names(half: nn.Module, model: nn.Module) -> None:
    """Let ``half`` have its parameters and buffers under all the names of ``model``, whose state dict it fills a part of.

    Modules that share a weight each have a name for it, of which a trace keeps only one.
    """
    own = {id(value) for value in (*half.parameters(), *half.buffers())}
    known = {*_names_of(half)}
    for name, value in _names_of(model).items():
        if id(value) not in own or name in known:
            continue
        path, _, leaf = name.rpartition(".")
        holder = _module_at(half, path)
        if isinstance(value, nn.Parameter):
            holder.register_parameter(leaf, value)
        else:
            holder.register_buffer(leaf, value, leaf not in model.get_submodule(path)._non_persistent_buffers_set)  # noqa: SLF001


def _names_of(module: nn.Module) -> dict[str, Tensor]:
    parameters, buffers = module.named_parameters, module.named_buffers
    return {**dict(parameters(remove_duplicate=False)), **dict(buffers(remove_duplicate=False))}


def _module_at(root: nn.Module, path: str) -> nn.Module:
    """The module at a path; what is not there yet is made."""
    for name in filter(None, path.split(".")):
        if getattr(root, name, None) is None:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    return root


def _adopt(target: nn.Module, source: nn.Module) -> None:
    """Register the parameters and buffers of ``source`` in ``target`` too, under the same names."""
    for name, parameter in source.named_parameters(recurse=False):
        target.register_parameter(name, parameter)
    for name, buffer in source.named_buffers(recurse=False):
        target.register_buffer(name, buffer, name not in source._non_persistent_buffers_set)  # noqa: SLF001
    for name, child in source.named_children():
        _adopt(_module_at(target, name), child)
