"""Random draws that depend on a seed alone: dropout has the same masks in torch and in an exported graph."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cutlayer_export.graph import operators

__all__ = ["Draws", "SeededDraws"]

aten = torch.ops.aten
_UNSUPPORTED = (
    *(aten.bernoulli.Tensor, aten.rand.default, aten.rand_like.default, aten.randn.default, aten.randn_like.default),
    *(aten.uniform.default, aten.normal_functional.default, aten.randint.low, aten.multinomial.default),
    *(aten.randperm.default, aten.exponential.default),
)


class Draws:
    """The random draws of one pass, numbered in their order.

    Args:
        seed: scalar int64, from 0 to 2**31 - 1; may be set later, but before the first draw.
    """

    def __init__(self, seed: Tensor | None = None) -> None:
        self.seed, self._count = seed, 0

    def table(self) -> dict[Any, Callable[..., Any]]:
        """What to compute instead of torch's random operations, by overload."""
        rules: dict[Any, Callable[..., Any]] = {
            aten.bernoulli.p: lambda x, p=0.5, **_: self._bernoulli(x, p),
            aten.bernoulli.default: lambda x, **_: _refuse(aten.bernoulli.default),
            aten.bernoulli_.float: lambda x, p=0.5, **_: x.copy_(self._bernoulli(x, p)),
            aten.native_dropout.default: self._dropout,
        }
        return rules | {op: _refusing(op) for op in _UNSUPPORTED}

    def _bernoulli(self, like: Tensor, probability: float) -> Any:
        assert self.seed is not None, "an inference pass draws nothing"
        self._count += 1
        return operators.bernoulli(self.seed, like, probability, self._count)

    def _dropout(self, x: Tensor, probability: float, train: bool | None) -> tuple[Tensor, Tensor]:
        kept = self._bernoulli(x, 1.0 - probability)
        return x * kept * (1.0 / (1.0 - probability)), kept.to(torch.bool)


class SeededDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside this context, torch draws the same random numbers as an exported graph with the same seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._table = Draws(torch.tensor(seed)).table()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._table.get(func, func)(*args, **(kwargs or {}))


def _refusing(operation: Any) -> Callable[..., Any]:
    return lambda *_, **__: _refuse(operation)


def _refuse(operation: Any) -> Any:
    raise NotImplementedError(f"the random numbers of {operation}")
