"""Optimizers as torch functions, to be traced into the training graph. Same arithmetic as torch.optim."""

from collections.abc import Callable

import torch
from torch import Tensor

from cutlayer_core.trial.optimizers import Adam, AdamW, Optimizer, Sgd
from cutlayer_export.graph import operators

__all__ = ["initial_state", "needs_step", "optimizer_step"]

Tensors = dict[str, Tensor]
_CLIP_EPSILON = 1e-6
_Rule = Callable[..., tuple[Tensors, Tensors]]


def initial_state(params: Tensors, settings: Optimizer) -> Tensors:
    """The state before the first step: one tensor of zeros per parameter for each moment that the optimizer keeps."""
    moments = {Sgd: ["momentum"], Adam: ["mean", "variance"], AdamW: ["mean", "variance"]}[type(settings)]
    if isinstance(settings, Sgd) and settings.momentum == 0.0:
        moments = []
    return {f"{moment}.{name}": torch.zeros_like(value) for moment in moments for name, value in params.items()}


def needs_step(settings: Optimizer) -> bool:
    """Whether `optimizer_step` reads the step number."""
    return not isinstance(settings, Sgd)


def optimizer_step(
    params: Tensors, gradients: Tensors, state: Tensors, learning_rate: Tensor, step: Tensor, settings: Optimizer
) -> tuple[Tensors, Tensors]:
    """New parameters and new state.

    Args:
        params: parameters by name.
        gradients: gradients by the same names.
        state: from `initial_state` or the step before.
        learning_rate: scalar float32, so that a schedule may vary it.
        step: scalar int64, 1 in the first step.
        settings: of the optimizer; the learning rate in them is not used.
    """
    if settings.clip_norm is not None:
        gradients = _clipped(gradients, settings.clip_norm)
    if settings.weight_decay and not isinstance(settings, AdamW):
        gradients = {name: value + settings.weight_decay * params[name] for name, value in gradients.items()}
    rule: _Rule = _RULES[type(settings)]
    return rule(params, gradients, state, learning_rate, step, settings)


def _clipped(gradients: Tensors, limit: float) -> Tensors:
    """Clip gradients as torch.nn.utils.clip_grad_norm_ does."""
    norm = torch.stack([(value * value).sum() for value in gradients.values()]).sum().sqrt()
    factor = torch.clamp(limit / (norm + _CLIP_EPSILON), max=1.0)
    return {name: value * factor for name, value in gradients.items()}


def _sgd(
    params: Tensors, gradients: Tensors, state: Tensors, learning_rate: Tensor, step: Tensor, settings: Sgd
) -> tuple[Tensors, Tensors]:
    new_params, new_state = {}, {}
    for name, param in params.items():
        change = gradients[name]
        if settings.momentum:
            momentum = settings.momentum * state[f"momentum.{name}"] + change
            new_state[f"momentum.{name}"] = momentum
            change = change + settings.momentum * momentum if settings.nesterov else momentum
        new_params[name] = param - learning_rate * change
    return new_params, new_state


def _adam(
    params: Tensors, gradients: Tensors, state: Tensors, learning_rate: Tensor, step: Tensor, settings: Adam
) -> tuple[Tensors, Tensors]:
    rate = learning_rate / operators.one_minus_power(settings.beta1, step)
    scale = operators.one_minus_power(settings.beta2, step).sqrt()
    new_params, new_state = dict[str, Tensor](), dict[str, Tensor]()
    for name, param in params.items():
        gradient, mean, variance = gradients[name], state[f"mean.{name}"], state[f"variance.{name}"]
        mean = mean + (1.0 - settings.beta1) * (gradient - mean)
        variance = settings.beta2 * variance + (1.0 - settings.beta2) * (gradient * gradient)
        decayed = param
        if isinstance(settings, AdamW) and settings.weight_decay:
            decayed = param * (1.0 - learning_rate * settings.weight_decay)
        new_params[name] = decayed - rate * (mean / (variance.sqrt() / scale + settings.epsilon))
        new_state |= {f"mean.{name}": mean, f"variance.{name}": variance}
    return new_params, new_state


_RULES: dict[type, _Rule] = {Sgd: _sgd, Adam: _adam, AdamW: _adam}
