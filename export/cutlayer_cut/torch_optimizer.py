"""The optimizers of `cutlayer_core.trial.optimizers` as torch optimizers."""

from collections.abc import Iterable

import torch
from torch import nn

from cutlayer_core.trial.optimizers import AdamW, Optimizer, Sgd

__all__ = ["clip", "torch_optimizer"]


def torch_optimizer(params: Iterable[nn.Parameter], settings: Optimizer) -> torch.optim.Optimizer:
    """The torch optimizer with these settings; call `clip` before each of its steps."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if isinstance(settings, Sgd):
        momentum, nesterov = settings.momentum, settings.nesterov
        return torch.optim.SGD(params, lr=rate, weight_decay=decay, momentum=momentum, nesterov=nesterov)
    rule = torch.optim.AdamW if isinstance(settings, AdamW) else torch.optim.Adam
    betas = (settings.beta1, settings.beta2)
    return rule(params, lr=rate, weight_decay=decay, betas=betas, eps=settings.epsilon)


def clip(params: Iterable[nn.Parameter], settings: Optimizer) -> None:
    """Limit the norm of all gradients together, if the settings ask for it."""
    if settings.clip_norm is not None:
        nn.utils.clip_grad_norm_(params, settings.clip_norm)
