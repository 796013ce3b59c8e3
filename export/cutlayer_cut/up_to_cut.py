"""The user's own model, run as far as the cut."""

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
    """

    def __init__(self, model: nn.Module, cut: str, place: int = 0) -> None:
        self.model, self._cut, self._place = model, cut, place

    def __call__(self, x: Tensor) -> Tensor:
        """The smashed data."""
        return self.outputs(x)[self._place]

    def on(self, model: nn.Module) -> "UpToCut":
        """The same of another model, such as a copy."""
        return UpToCut(model, self._cut, self._place)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """All tensors that the module at the cut gives; rows that the model has folded into the batch lie behind it."""
        return [_by_sample(each, len(x)) for each in _tensors(self._given(x))]

    def _given(self, x: Tensor) -> Any:
        if self._cut == WHOLE:
            return self.model(x)
        owner, _, name = self._cut.rpartition(".")
        modules = self.model.get_submodule(owner)._modules  # noqa: SLF001 - assigning it would rename parameters
        own = modules[name]
        assert own is not None
        modules[name] = _Stopping(own)
        try:
            self.model(x)
        except _Reached as reached:
            return reached.output
        finally:
            modules[name] = own
        raise UserError(f"model.cut: the model does not call {self._cut!r}")


def up_to_cut(model: nn.Module, cut: str, client: nn.Module, example: Tensor) -> UpToCut:
    """The model up to the cut, giving the tensor that the client-side half ``client`` gives.

    Raises:
        UserError: the module at the cut gives no such tensor.
    """
    with torch.no_grad(), unchanged(model), mode(client, training=False):
        wanted = client(example)
    with torch.no_grad(), unchanged(model), mode(model, training=False):
        found = UpToCut(model, cut).outputs(example)
    for place, each in enumerate(found):
        if each.shape == wanted.shape and torch.allclose(each, wanted, rtol=1e-3, atol=1e-5):
            return UpToCut(model, cut, place)
    raise UserError(f"model.cut: the part before {cut!r} does not compute what the whole model does there")


class _Stopping(nn.Module):
    """Stands in for a module, with its hooks and attributes, and ends the run of the model after it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module, and raise `_Reached`."""
        raise _Reached(self.module(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)


def _by_sample(tensor: Tensor, samples: int) -> Tensor:
    rows = len(tensor) if tensor.dim() else samples
    return torch.unflatten(tensor, 0, (samples, -1)) if rows > samples and rows % samples == 0 else tensor


def _tensors(output: Any) -> list[Tensor]:
    return [each for each in tree_leaves(output) if isinstance(each, Tensor)]
