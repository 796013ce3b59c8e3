"""Cut a module in two at the output of one of its submodules.

The first attempt traces only the containers on the path to the cut and keeps every other module whole. If a container
runs Python code that such a trace cannot follow, as transformers do, the model is traced down to operations instead.
"""

import difflib
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from cutlayer_core.errors import UserError
from cutlayer_cut.agreement import Agreement
from cutlayer_cut.halves import Halves, halves_of_modules, halves_of_operations, keep_names
from cutlayer_cut.modes import mode, remember_modes, set_mode, unchanged
from cutlayer_cut.module_trace import trace_modules
from cutlayer_cut.operation_trace import OperationTrace
from cutlayer_cut.traced import Parts, Traced, Unfollowed, Untraceable, part

__all__ = ["Cutter", "cut"]


def cut(model: nn.Module, name: str, example: Tensor) -> Halves:
    """Cut ``model`` at the output of its submodule ``name``; see `Cutter.cut`."""
    return Cutter(model, example).cut(name)


class Cutter:
    """A model, and the places where it can be cut.

    Args:
        model: a module that takes one tensor.
        example: a batch of at least two inputs.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self._model, self._example = model, example
        self._state = set(model.state_dict())
        self._names = list(_in_order_of_output(model))
        self._operation_traces: dict[bool, OperationTrace] = {}
        self._agreement = Agreement(model, example)

    def cut(self, name: str) -> Halves:
        """Cut the model at the output of its submodule ``name``; the halves have the model's train/eval mode.

        Of a module that is called several times, the last call counts.

        Raises:
            UserError: there is no such module, it is not called, the code cannot be traced, several tensors cross the
                cut (the text names them and the nearest cuts with only one), or both halves would own the same
                parameter.
        """
        if first := _other_name(self._model, name):
            raise UserError(
                f"model.cut: {name!r} is the same module as {first!r}; cut at {first!r}, where its last call counts"
            )
        if name not in self._names:
            close = difflib.get_close_matches(name, self._names, 3, 0.4)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; modules: {_some(self._names)}"
            raise UserError(f"model.cut: found {name!r}, which is not a module of {type(self._model).__name__}{hint}")
        if compiled := _compiled_container(self._model, name):
            raise UserError(
                f"model.cut: {compiled!r} is compiled by torch.jit, so it cannot be cut inside; cut before or after it, "
                "or make the model without torch.jit"
            )
        if hooked := _hooked_parameter(self._model):
            raise UserError(
                f"model.factory: the parameter {hooked!r} has a hook, which boards and server would not run; "
                "put what it does into the model's code"
            )
        try:
            halves = self._halves(name)
            self._agreement.require(*halves)
        except Untraceable as error:
            raise UserError(f"model.cut: the model cannot be cut at {name!r}: {error}") from error
        except _SeveralCross as error:
            raise UserError(f"model.cut: {error.describe(name)}; {self._nearest(name)}") from error
        return halves

    def possible(self) -> dict[str, Halves]:
        """Every cut that leaves parameters for the server, by module name; a module comes after its submodules."""
        found = ((name, self._possible(name)) for name in self._names)
        return {name: halves for name, halves in found if halves is not None}

    def _halves(self, name: str) -> Halves:
        with unchanged(self._model):
            return self._traced_halves(name)

    def _traced_halves(self, name: str) -> Halves:
        try:
            traced, parts = _checked(trace_modules(self._model, name, self._example))
            halves, rows = halves_of_modules(traced, parts), parts.rows
        except (Untraceable, _SeveralCross) as first:
            halves, rows = self._halves_of_operations(name, first)
        client, server = ({id(value): key for key, value in half.named_parameters()} for half in halves)
        if shared := client.keys() & server.keys():
            raise Untraceable(f"the parameter {client[shared.pop()]} is used before and after it")
        for half in halves:
            keep_names(half, self._model)
            remember_modes(half, self._model)
            set_mode(half, self._model.training)
            _forget_constants(half, self._state)
        if rows > 1:
            self._require_rows_by_sample(halves.client)
        return halves

    def _require_rows_by_sample(self, client: nn.Module) -> None:
        with torch.no_grad(), mode(client, training=False), unchanged(client):
            first, alone = client(self._example)[:1], client(self._example[:1])
        if first.shape != alone.shape or not torch.allclose(first, alone, rtol=1e-3, atol=1e-5):
            raise Untraceable("its rows are not sorted by sample; fold other dimensions in after the batch")

    def _halves_of_operations(self, name: str, first: "Untraceable | _SeveralCross") -> tuple[Halves, int]:
        """Halves, and the rows a sample of what crosses.

        Fall back to a trace of operations; if that fails too, prefer the first error, which names modules.
        """
        try:
            traces = [_checked(self._operations(training).at(name)) for training in (True, False)]
            return halves_of_operations(*traces), traces[0][1].rows
        except Untraceable as second:
            if isinstance(first, _SeveralCross):
                raise first from None
            if isinstance(first, Unfollowed):
                raise
            raise Untraceable("; ".join(dict.fromkeys((str(first), str(second))))) from second
        except _SeveralCross as second:
            raise (first if isinstance(first, _SeveralCross) else second) from None

    def _operations(self, training: bool) -> OperationTrace:
        if training not in self._operation_traces:
            with mode(self._model, training):
                self._operation_traces[training] = OperationTrace(self._model, self._example)
        return self._operation_traces[training]

    def _possible(self, name: str) -> Halves | None:
        try:
            halves = self._halves(name)
        except (Untraceable, _SeveralCross):
            return None
        return halves if any(True for _ in halves.server.parameters()) else None

    def _nearest(self, name: str) -> str:
        """Name the nearest cuts before and after this one that only one tensor crosses."""
        place = self._names.index(name)
        before = next(filter(self._possible, reversed(self._names[:place])), None)
        after = next(filter(self._possible, self._names[place + 1 :]), None)
        found = " and ".join(repr(each) for each in (before, after) if each)
        verb = "cuts with one tensor are" if before and after else "cut with one tensor is"
        return f"the nearest {verb} {found}" if found else "no module has a cut with one tensor"


class _SeveralCross(Exception):
    """The cut is crossed by several tensors, or by none, instead of exactly one."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self._parts = parts

    def describe(self, name: str) -> str:
        """Name the tensors that cross, with their shapes."""
        if self._parts.smashed is None:
            return f"what {name!r} gives out is not used after it"
        crossing = [_describe(node, name) for node in self._parts.crossing]
        return f"{len(crossing)} tensors cross at {name!r} ({', '.join(crossing)})"


def _forget_constants(half: nn.Module, state: set[str]) -> None:
    """Keep buffers that only tracing has registered, and not the model, out of the state dict."""
    for key in half.state_dict().keys() - state:
        owner, _, name = key.rpartition(".")
        module = half.get_submodule(owner)
        module.register_buffer(name, module.get_buffer(name), persistent=False)


def _hooked_parameter(model: nn.Module) -> str | None:
    """The first parameter with a hook of its own; copies of a model have none."""
    for name, each in model.named_parameters():
        if each._backward_hooks or getattr(each, "_post_accumulate_grad_hooks", None):  # noqa: SLF001
            return name
    return None


def _other_name(model: nn.Module, name: str) -> str:
    """The first name of a module that has several, if ``name`` is another of them; else empty."""
    own = dict(model.named_modules(remove_duplicate=False)).get(name)
    first = next((each for each, module in model.named_modules() if module is own), name)
    return first if first != name else ""


def _compiled_container(model: nn.Module, name: str) -> str:
    """The outermost compiled module that contains the module ``name``; empty if there is none."""
    compiled = (each for each, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule))
    return next((each for each in compiled if name.startswith(f"{each}.")), "")


def _in_order_of_output(module: nn.Module, prefix: str = "") -> Iterator[str]:
    for name, child in module.named_children():
        yield from _in_order_of_output(child, f"{prefix}{name}.")
        yield f"{prefix}{name}"


def _checked(traced: Traced) -> tuple[Traced, Parts]:
    """The trace with its parts; raises unless exactly one tensor crosses."""
    parts = part(traced)
    if any(not isinstance(node.meta.get("val"), Tensor) for node in parts.crossing):
        raise Untraceable("numbers that depend on the input are used on both sides of it")
    if parts.smashed is None or len(parts.crossing) > 1:
        raise _SeveralCross(parts)
    return traced, parts


def _describe(node: fx.Node, name: str) -> str:
    label = {"placeholder": "the model's input", "call_module": f"the output of {node.target}"}.get(node.op)
    if label is None:
        path = [each for each, _ in node.meta.get("nn_module_stack", {}).values() if each]
        label = f"{node.name} in {path[-1]}" if path else node.name
    shape = tuple(node.meta["val"].shape[1:])
    return f"{label} {shape}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
