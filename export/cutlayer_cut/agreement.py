"""Holds both halves against the whole model: what they give, the buffers they change, and every gradient."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cutlayer_cut.modes import mode, unchanged
from cutlayer_cut.paths import where_paths_part
from cutlayer_cut.traced import Untraceable

__all__ = ["Agreement"]

_MISREAD = 1e-3
"""Relative difference from which halves compute something else. Not zero: in eval mode, torch runs a whole transformer
with other kernels than its parts."""
_LEAST_GRADIENT = 1e-5
"""Share of the greatest gradient below which one is all rounding, such as that of a bias before BatchNorm."""
_SEED = 0


class _Computed(NamedTuple):
    """What a model computes for one batch: outputs, buffers afterwards, and gradients by parameter; None without one."""

    outputs: list[Tensor]
    buffers: dict[str, Tensor]
    gradients: dict[str, Tensor | None]


class Agreement:
    """What the whole model computes for an example, in both modes, for the whole batch and for a batch of one.

    Args:
        model: any module that takes one tensor.
        example: a batch of inputs.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self._model, self._batches = model, (example, example[:1])
        self._wanted: dict[tuple[bool, int], _Computed | None] = {}

    def require(self, client: nn.Module, server: nn.Module) -> None:
        """Raise `Untraceable` unless both halves together are the model; the text says how they differ."""
        halves = (client, server)
        for training in (False, True):
            for batch in self._batches:
                wanted = self._of_model(training, batch)
                if wanted is None:  # torch refuses this batch itself, as BatchNorm does with one sample
                    continue
                try:
                    found = self._computed(lambda x: server(client(x)), halves, training, batch)
                except (RuntimeError, ValueError, TypeError, IndexError) as error:
                    what = f"both halves together fail where the whole model does not: {str(error).splitlines()[0]}"
                    raise Untraceable(self._explained(what, training, batch)) from error
                if what := _difference(found, wanted):
                    raise Untraceable(self._explained(what, training, batch))

    def _of_model(self, training: bool, batch: Tensor) -> _Computed | None:
        key = (training, len(batch))
        if key not in self._wanted:
            try:
                self._wanted[key] = self._computed(self._model, (self._model,), training, batch)
            except (RuntimeError, ValueError) as error:
                if len(batch) > 1:
                    when = "in train mode" if training else "in eval mode"
                    raise Untraceable(f"the whole model fails {when}: {str(error).splitlines()[0]}") from error
                self._wanted[key] = None
        return self._wanted[key]

    def _computed(
        self, run: Callable[[Tensor], Any], modules: tuple[nn.Module, ...], training: bool, batch: Tensor
    ) -> _Computed:
        params = {name: each for name, each in self._model.named_parameters() if each.requires_grad}
        with self._repeatable(modules, training), torch.enable_grad():
            outputs = [each for each in tree_leaves(run(batch)) if isinstance(each, Tensor)]
            gradients = (
                _gradients(outputs, params) if training else dict.fromkeys(params)
            )  # nothing trains in eval mode
            buffers = {name: each.clone() for name, each in self._model.named_buffers()}
        return _Computed([each.detach() for each in outputs], buffers, gradients)

    @contextmanager
    def _repeatable(self, modules: tuple[nn.Module, ...], training: bool) -> Iterator[None]:
        """In a mode, with random numbers from a fixed seed, and without a trace afterwards."""
        with ExitStack() as stack:
            stack.enter_context(unchanged(self._model))
            for each in modules:
                stack.enter_context(mode(each, training))
            stack.enter_context(torch.random.fork_rng(devices=[]))
            torch.manual_seed(_SEED)
            yield

    def _explained(self, what: str, training: bool, batch: Tensor) -> str:
        of_one = len(batch) == 1 and len(self._batches[0]) > 1
        line = ""
        if of_one:
            with self._repeatable((self._model,), training), torch.no_grad():
                line = where_paths_part(self._model, *self._batches)
        when = f"in {'train' if training else 'eval'} mode{', for a batch of one sample' if of_one else ''}"
        return f"{when}, {what}" + (f"; the code decides by the size of the batch at {line}" if line else "")


def _gradients(outputs: list[Tensor], params: Mapping[str, nn.Parameter]) -> dict[str, Tensor | None]:
    """Of a sum of all outputs with random weights."""
    generator = torch.Generator().manual_seed(_SEED)
    terms = [
        (each * torch.randn(each.shape, generator=generator, dtype=each.dtype)).sum()
        for each in outputs
        if each.requires_grad
    ]
    if not terms:
        return dict.fromkeys(params)
    found = torch.autograd.grad(torch.stack(terms).sum(), list(params.values()), allow_unused=True)
    return dict(zip(params, found, strict=True))


def _difference(found: _Computed, wanted: _Computed) -> str:
    if len(found.outputs) != len(wanted.outputs):
        return "both halves together give another number of tensors than the whole model"
    for ours, whole in zip(found.outputs, wanted.outputs, strict=True):
        if ours.shape != whole.shape or _far(ours, whole):
            return "both halves together compute otherwise than the whole model"
    for name, whole in wanted.buffers.items():
        if _far(found.buffers[name], whole):
            return f"both halves together change the buffer {name!r} otherwise than the whole model"
    floor = _LEAST_GRADIENT * max((_greatest(each) for each in wanted.gradients.values()), default=0.0)
    for name, gradient in wanted.gradients.items():
        if _far(_or_zero(found.gradients[name]), _or_zero(gradient), floor):
            return (
                f"{name!r} gets another gradient than in the whole model: a hook, or other code that works on gradients, "
                "is lost where the model is cut"
            )
    return ""


def _or_zero(gradient: Tensor | None) -> Tensor:
    return torch.zeros(()) if gradient is None else gradient


def _greatest(tensor: Tensor | None) -> float:
    return 0.0 if tensor is None or not tensor.numel() else float(tensor.abs().max())


def _far(found: Tensor, wanted: Tensor, floor: float = 0.0) -> bool:
    if not wanted.is_floating_point():
        return not torch.equal(found, wanted)
    same = torch.isclose(found, wanted, rtol=0.0, atol=max(_MISREAD * _greatest(wanted), floor), equal_nan=True)
    return not bool(same.all())
