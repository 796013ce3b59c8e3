"""Train and eval mode of a whole module, and its buffers, which a pass through it may change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["mode", "remember_modes", "set_mode", "unchanged"]


def remember_modes(half: nn.Module, whole: nn.Module) -> None:
    """Make `set_mode` keep modules of ``half`` in eval mode if ``whole`` keeps them there in train mode.

    A model may override ``train`` to freeze its BatchNorm; without this, cutting it would lose the override.
    """
    with mode(whole, training=True):
        stay = {name for name, module in whole.named_modules() if not module.training}
    half.stays_in_eval = tuple(name for name, _ in half.named_modules() if name in stay)  # type: ignore[assignment]


def set_mode(module: nn.Module, training: bool) -> None:
    """Put ``module`` and its submodules into train or eval mode, except those that always stay in eval mode."""
    module.train(training)
    if training:
        for name in getattr(module, "stays_in_eval", ()):
            module.get_submodule(name).training = False


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Set the mode as `set_mode` does, and give each module its previous mode back afterwards."""
    modes = {each: each.training for each in module.modules()}
    set_mode(module, training)
    try:
        yield
    finally:
        for each, was_training in modes.items():
            each.training = was_training


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the buffers of a model afterwards, which tracing or running it may change."""
    modules = list(model.modules())
    kept = [dict(module._buffers) for module in modules]  # noqa: SLF001 - as registered, None included
    values = [{name: value.clone() for name, value in each.items() if value is not None} for each in kept]
    try:
        yield
    finally:
        for module, each, copies in zip(modules, kept, values, strict=True):
            if not isinstance(module, torch.jit.ScriptModule):  # whose buffers nobody can replace
                module._buffers.update(each)  # noqa: SLF001
            for name, value in copies.items():
                buffer = each[name]
                assert buffer is not None
                buffer.copy_(value)
