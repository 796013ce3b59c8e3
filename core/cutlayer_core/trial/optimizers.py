"""Settings of the optimizers; `export` turns the client's into graph operations, `server_runtime` into torch.optim."""

from typing import Annotated

import msgspec

__all__ = ["Adam", "AdamW", "Optimizer", "Sgd"]

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_BelowOne = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", kw_only=True):
    learning_rate: _Positive
    weight_decay: _NotNegative = 0.0
    clip_norm: _Positive | None = None
    """Limit on the joint norm of all gradients of this side, as in torch.nn.utils.clip_grad_norm_."""


class Sgd(_Settings, frozen=True, tag="sgd", kw_only=True):
    """Stochastic gradient descent with momentum, Nesterov momentum and weight decay, defined as in torch.optim.SGD."""

    momentum: _BelowOne = 0.0
    nesterov: bool = False


class Adam(_Settings, frozen=True, tag="adam", kw_only=True):
    """Adam (Kingma & Ba, arXiv 1412.6980) with L2 regularisation, defined as in torch.optim.Adam."""

    beta1: _BelowOne = 0.9
    beta2: _BelowOne = 0.999
    epsilon: _Positive = 1e-8


class AdamW(Adam, frozen=True, tag="adamw", kw_only=True):
    """Adam with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101), defined as in torch.optim.AdamW."""

    weight_decay: _NotNegative = 0.01


Optimizer = Sgd | Adam | AdamW
"""The table of optimizers: the types that ``[optimizer.client]`` and ``[optimizer.server]`` may name by ``id``."""
