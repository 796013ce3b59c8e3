"""SGD as torch functions, to be traced into the backward graph. Same arithmetic as torch.optim.SGD."""

import torch
from torch import Tensor

from cutlayer.optimizers import Sgd

__all__ = ["sgd_state", "sgd_step"]

Tensors = dict[str, Tensor]


def sgd_state(params: Tensors, settings: Sgd) -> Tensors:
    """State before the first step: a zero momentum buffer a parameter, or nothing without momentum."""
    if settings.momentum == 0.0:
        return {}
    return {f"momentum.{name}": torch.zeros_like(value) for name, value in params.items()}


def sgd_step(
    params: Tensors, gradients: Tensors, state: Tensors, learning_rate: Tensor, settings: Sgd
) -> tuple[Tensors, Tensors]:
    """One step: new parameters and new state. ``learning_rate`` is a scalar tensor, so a schedule may vary it."""
    new_params, new_state = {}, {}
    for name, param in params.items():
        step = gradients[name]
        if settings.weight_decay:
            step = step + settings.weight_decay * param
        if settings.momentum:
            momentum = settings.momentum * state[f"momentum.{name}"] + step
            new_state[f"momentum.{name}"] = momentum
            step = step + settings.momentum * momentum if settings.nesterov else momentum
        new_params[name] = param - learning_rate * step
    return new_params, new_state
