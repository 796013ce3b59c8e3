"""The user's model in torch, in float64 and in float32, as what exported graphs are held against."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from cutlayer_core.errors import UserError
from cutlayer_cut import UpToCut, mode, training
from cutlayer_export.graph.draws import SeededDraws

__all__ = ["Reference", "References"]

Tensors = dict[str, Tensor]
_NUDGE = 2.0**-21
"""Four units in the last place of float32."""


class Reference:
    """A copy of the user's whole model, run up to the cut.

    Args:
        source: the model and its cut; a copy is made.
        client: the client-side half, by which "last:N" counts modules.
        trainable: as in `cutlayer_cut.client_state`.
        double: whether to compute in float64.
    """

    def __init__(self, source: UpToCut, client: nn.Module, trainable: str, *, double: bool) -> None:
        model = _copied(source.model)
        self._run = source.on(model.double() if double else model)
        self._client, self._trainable = client, trainable
        self._initial = {name: value.detach().clone() for name, value in self.tensors().items()}

    def tensors(self) -> Tensors:
        """Parameters and buffers of the whole model, by all of their names; the same objects each time."""
        model = self._run.model
        buffers = dict(model.named_buffers(remove_duplicate=False))
        return {**dict(model.named_parameters(remove_duplicate=False)), **buffers}

    def parameters(self, names: Iterable[str]) -> dict[str, nn.Parameter]:
        """Some of the parameters."""
        found = dict(self._run.model.named_parameters(remove_duplicate=False))
        return {name: found[name] for name in names}

    def reset(self) -> None:
        """Set all tensors to what they were in the beginning."""
        self.assign(self._initial)

    def assign(self, values: Tensors) -> None:
        """Copy values into the tensors of these names."""
        own = self.tensors()
        with torch.no_grad():
            for name, value in values.items():
                own[name].copy_(value)

    def infer(self, x: Tensor) -> Tensor:
        """Smashed data in eval mode."""
        with torch.no_grad(), mode(self._run.model, training=False), sdpa_kernel(SDPBackend.MATH):
            return self._run(self._cast(x))

    def train(self, x: Tensor) -> None:
        """A forward pass in train mode."""
        with training(self._run.model, self._trainable, self._client), torch.no_grad():
            self._run(self._cast(x))

    def differentiate(self, x: Tensor, g: Tensor, seed: int, names: Iterable[str]) -> Tensors:
        """Smashed data in train mode and its gradients, under the names of the graphs' outputs; buffers may change.

        A parameter that autograd does not reach has a gradient of zeros.
        """
        chosen = self.parameters(names)
        with (
            training(self._run.model, self._trainable, self._client),
            SeededDraws(seed),
            sdpa_kernel(SDPBackend.MATH),
            torch.enable_grad(),
        ):
            z = self._run(self._cast(x))
            found: Sequence[Tensor | None] = [None] * len(chosen)
            if z.requires_grad and chosen:
                found = torch.autograd.grad(z, list(chosen.values()), g.to(z.dtype), allow_unused=True)
        pairs = zip(chosen.items(), found, strict=True)
        gradients = {name: torch.zeros_like(each) if own is None else own for (name, each), own in pairs}
        return {"z": z.detach(), **{f"gradients.{name}": each.detach() for name, each in gradients.items()}}

    def nudged(self, x: Tensor, g: Tensor, seed: int, names: Iterable[str], factor: float) -> Tensors:
        """As `differentiate`, with samples and parameters off by ``factor`` times four units in the last place.

        Each tensor between the layers of a graph is off by as much, since kernels round in different ways.
        """
        before = {name: value.detach().clone() for name, value in self.tensors().items()}
        random = torch.Generator().manual_seed(seed)
        self.assign({name: _nudge(value, random, factor) for name, value in self.parameters(names).items()})
        found = self.differentiate(_nudge(x, random, factor), g, seed, names)
        self.assign(before)
        return found

    def _cast(self, x: Tensor) -> Tensor:
        """Floating-point inputs in the type of the model's parameters; others as they are."""
        dtype = next((each.dtype for each in self.tensors().values() if each.is_floating_point()), x.dtype)
        return x.to(dtype) if x.is_floating_point() else x


class References:
    """The user's model as ``exact`` in float64, where its code allows that, and as ``single`` in float32."""

    def __init__(self, source: UpToCut, client: nn.Module, trainable: str, example: Tensor) -> None:
        self.single = Reference(source, client, trainable, double=False)
        self.exact = Reference(source, client, trainable, double=True)
        try:
            self.exact.infer(example)
        except RuntimeError:  # code that asks for float32 cannot run in float64
            self.exact = Reference(source, client, trainable, double=False)
        self.exact.reset()

    def reset(self) -> None:
        """Set both to the model's initial values."""
        self.exact.reset()
        self.single.reset()

    def trains_on(self, x: Tensor, g: Tensor) -> bool:
        """Whether torch trains on this batch; BatchNorm refuses a single value per channel."""
        try:
            self.single.differentiate(x, g, 0, ())
        except (RuntimeError, ValueError):
            return False
        finally:
            self.single.reset()
        return True


def _copied(model: nn.Module) -> nn.Module:
    held = [each for module in model.modules() for each in vars(module).values() if isinstance(each, Tensor)]
    # torch.nn.utils' weight_norm and prune keep the weight that they computed last, which deepcopy refuses.
    memo: dict[int, Any] = {id(each): each.detach().clone() for each in held if not each.is_leaf}
    try:
        with torch.no_grad():  # else a compiled module's parameters become results of the original ones
            copied = copy.deepcopy(model, memo)
    except RuntimeError as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"model.factory: the model cannot be copied: {reason}") from error
    for own, original in zip(copied.parameters(), model.parameters(), strict=True):
        own.requires_grad_(original.requires_grad)
    return copied


def _nudge(value: Tensor, random: torch.Generator, factor: float) -> Tensor:
    if not value.is_floating_point():
        return value
    return value.detach() * (1 + torch.randn(value.shape, generator=random).to(value.dtype) * (_NUDGE * factor))
