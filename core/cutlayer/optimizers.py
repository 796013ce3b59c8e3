"""Settings of the optimizers; `export` turns the client's into graph operations, `server_runtime` into torch.optim."""

from typing import Annotated

import msgspec

__all__ = ["Sgd"]

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_BelowOne = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class Sgd(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="id", tag="sgd", kw_only=True):
    """Stochastic gradient descent with momentum, Nesterov momentum and weight decay, defined as in torch.optim.SGD."""

    learning_rate: _Positive
    momentum: _BelowOne = 0.0
    nesterov: bool = False
    weight_decay: _NotNegative = 0.0
