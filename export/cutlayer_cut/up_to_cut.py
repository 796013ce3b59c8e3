"""The user's own model, run as far as the cut."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cutlayer_core.errors import UserError
from cutlayer_core.trial.recipe import WHOLE
from cutlayer_cut.modes import mode, unchanged

__all__ = ["UpToCut", "up_to_cut"]


class _Reached(BaseException):
    """The cut's module has given its output. No ``Exception``, which the model's own code might catch."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


class UpToCut:
    """Runs a model's own code, untraced, until the module at the cut has given its output; that is its result.

    Args:
        model: the user's whole model.
        cut: the name of a module in it, or "none" for the whole model.
        place: which of the tensors that the module gives is the smashed data.
        calls: how often the model calls the module; the last call's output counts.
    """

    def __init__(self, model: nn.Module, cut: str, place: int = 0, calls: int = 1) -> None:
        self.model, self._cut, self._place, self._calls = model, cut, place, calls

    def __call__(self, x: Tensor) -> Tensor:
        """The smashed data."""
        return self.outputs(x)[self._place]

    def on(self, model: nn.Module) -> "UpToCut":
        """The same of another model, such as a copy."""
        return UpToCut(model, self._cut, self._place, self._calls)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """All tensors that the module at the cut gives; rows that the model has folded into the batch lie behind it."""
        return [_by_sample(each, len(x)) for each in _tensors(self._given(x))]

    def _given(self, x: Tensor) -> Any:
        if self._cut == WHOLE:
            return self.model(x)
        with _stood_in(self.model, self._cut, self._calls) as stand_in:
            try:
                self.model(x)
            except _Reached as reached:
                return reached.output
        how_often = f"calls {self._cut!r} {stand_in.calls} times, not {self._calls}"
        raise UserError(f"model.cut: for {len(x)} samples the model {how_often}, as for others")

    @staticmethod
    def count_calls(model: nn.Module, cut: str, x: Tensor) -> int:
        """How often a model calls its module ``cut``; once for the whole model."""
        if cut == WHOLE:
            return 1
        with _stood_in(model, cut, calls=None) as stand_in:
            model(x)
        return stand_in.calls


def up_to_cut(model: nn.Module, cut: str, client: nn.Module, example: Tensor) -> UpToCut:
    """The model up to the cut, giving the tensor that the client-side half ``client`` gives.

    Raises:
        UserError: the module at the cut gives no such tensor.
    """
    with torch.no_grad(), unchanged(model), mode(client, training=False):
        wanted = client(example)
    with torch.no_grad(), unchanged(model), mode(model, training=False):
        calls = UpToCut.count_calls(model, cut, example)
        found = UpToCut(model, cut, calls=calls).outputs(example)
    for place, each in enumerate(found):
        if each.shape == wanted.shape and torch.allclose(each, wanted, rtol=1e-3, atol=1e-5):
            return UpToCut(model, cut, place, calls)
    raise UserError(f"model.cut: the part before {cut!r} does not compute what the whole model does there")


class _Stopping(nn.Module):
    """Stands in for a module, with its hooks and attributes, and ends the run of the model at a call of it.

    Args:
        module: the module.
        last: the number of the call that ends the run; None: none does.
    """

    def __init__(self, module: nn.Module, last: int | None) -> None:
        super().__init__()
        self.module, self.calls, self._last = module, 0, last

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module; raises `_Reached` at the last call."""
        output = self.module(*args, **kwargs)
        self.calls += 1
        if self.calls == self._last:
            raise _Reached(output)
        return output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)


@contextmanager
def _stood_in(model: nn.Module, cut: str, calls: int | None) -> Iterator[_Stopping]:
    own = model.get_submodule(cut)
    stand_in = _Stopping(own, calls)
    holders = [each._modules for each in model.modules()]  # noqa: SLF001 - assigning modules would rename parameters
    places = [(held, name) for held in holders for name, module in held.items() if module is own]
    for held, name in places:
        held[name] = stand_in
    try:
        yield stand_in
    finally:
        for held, name in places:
            held[name] = own


def _by_sample(tensor: Tensor, samples: int) -> Tensor:
    rows = len(tensor) if tensor.dim() else samples
    return torch.unflatten(tensor, 0, (samples, -1)) if rows > samples and rows % samples == 0 else tensor


def _tensors(output: Any) -> list[Tensor]:
    return [each for each in tree_leaves(output) if isinstance(each, Tensor)]
