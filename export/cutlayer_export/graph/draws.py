"""Random draws that depend on a seed alone: dropout and noise are the same in torch and in an exported graph."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from cutlayer_export.graph import random_numbers
from cutlayer_export.graph.owners import owner_of

__all__ = ["Draws", "SeededDraws", "refuse_other_draws"]

aten = torch.ops.aten
_MOST_NUMBERS = 1 << 16


class Draws:
    """The random draws of one pass, numbered in their order.

    Args:
        seed: scalar int64, from 0 to 2**31 - 1; may be set later, but before the first draw. None in an inference pass,
            which must not draw.
    """

    def __init__(self, seed: Tensor | None = None) -> None:
        self.seed, self._count = seed, 0

    def table(self) -> dict[Any, Callable[..., Any]]:
        """What to compute instead of torch's random operations, by overload."""
        rules: dict[Any, Callable[..., Any]] = {
            aten.native_dropout.default: self._dropout,
            aten.bernoulli.p: lambda x, p=0.5, **_: self._bernoulli(x, p),
            aten.bernoulli.default: lambda p, **_: self._below(p, p),
            aten.bernoulli.Tensor: lambda x, p, **_: self._below(x, p),
            aten.rand.default: lambda size, **options: self._uniform(_like(size, **options)),
            aten.rand_like.default: lambda x, **options: self._uniform(_like(x.shape, x, **options)),
            aten.randn.default: lambda size, **options: self._normal(_like(size, **options)),
            aten.randn_like.default: lambda x, **options: self._normal(_like(x.shape, x, **options)),
            aten.normal.Tensor_Tensor: lambda mean, std, **_: mean + std * self._normal(mean + std),
            aten.normal.Tensor_float: lambda mean, std=1.0, **_: mean + std * self._normal(mean),
            aten.normal.float_Tensor: lambda mean, std, **_: mean + std * self._normal(std),
            aten.randint.default: lambda high, size, **options: self._whole(size, 0, high, **options),
            aten.randint.low: lambda low, high, size, **options: self._whole(size, low, high, **options),
            aten.randint_like.default: lambda x, high, **options: self._whole(x.shape, 0, high, x, **options),
            aten.randint_like.low_dtype: lambda x, low, high, **options: self._whole(x.shape, low, high, x, **options),
            aten.uniform.default: self._uniform,
            aten.normal_functional.default: self._normal,
            aten.exponential.default: self._exponential,
        }
        # Functionalization turns these into the ones above, plain torch has them.
        in_place: dict[Any, Callable[..., Tensor]] = {
            aten.bernoulli_.float: lambda x, p=0.5, **_: self._bernoulli(x, p),
            aten.bernoulli_.Tensor: lambda x, p, **_: self._below(x, p),
            aten.uniform_.default: self._uniform,
            aten.normal_.default: self._normal,
            aten.exponential_.default: self._exponential,
        }
        rules |= {operation: _writing(rule) for operation, rule in in_place.items()}
        return rules

    def _next(self) -> tuple[Tensor, int]:
        if self.seed is None:
            raise NotImplementedError(
                "it draws random numbers in eval mode, too, so that a sample would have another result each time; "
                "draw only while self.training"
            )
        self._count += 1
        return self.seed, self._count

    def _bernoulli(self, like: Tensor, probability: float) -> Tensor:
        seed, stream = self._next()
        drawn: Tensor = random_numbers.bernoulli(seed, like, probability, stream)
        return drawn

    def _dropout(self, x: Tensor, probability: float, train: bool | None) -> tuple[Tensor, Tensor]:
        kept = self._bernoulli(x, 1.0 - probability)
        return x * kept * (1.0 / (1.0 - probability)), kept.to(torch.bool)

    def _below(self, like: Tensor, probabilities: Tensor) -> Tensor:
        return (self._uniform(like) < probabilities).to(like.dtype)

    def _uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0, **_: Any) -> Tensor:
        seed, stream = self._next()
        drawn: Tensor = random_numbers.uniform(seed, like, stream)
        return drawn if (low, high) == (0.0, 1.0) else low + (high - low) * drawn

    def _normal(self, like: Tensor, mean: float = 0.0, std: float = 1.0, **_: Any) -> Tensor:
        """Normally distributed numbers, from two uniform ones each (Box and Muller, 1958)."""
        radius = torch.sqrt(-2.0 * torch.log(self._uniform(like)))
        drawn = radius * torch.cos(2.0 * math.pi * self._uniform(like))
        return drawn if (mean, std) == (0.0, 1.0) else mean + std * drawn

    def _whole(
        self, size: Any, low: int, high: int, of: Tensor | None = None, dtype: torch.dtype | None = None, **_: Any
    ) -> Tensor:
        """Whole numbers from ``low`` to one below ``high``; a uniform number has 23 bits, so there cannot be many."""
        if high - low > _MOST_NUMBERS:
            raise NotImplementedError(f"random whole numbers from more than {_MOST_NUMBERS}")
        drawn = torch.floor(self._uniform(torch.zeros(size)) * (high - low)).to(torch.int64) + low
        return drawn.to(dtype or (torch.int64 if of is None else of.dtype))

    def _exponential(self, like: Tensor, rate: float = 1.0, **_: Any) -> Tensor:
        return torch.log(self._uniform(like)) * (-1.0 / rate)


class SeededDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside this context, torch draws the same random numbers as an exported graph with the same seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._table = Draws(torch.tensor(seed)).table()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._table.get(func, func)(*args, **(kwargs or {}))


def _like(size: Any, of: Tensor | None = None, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """A tensor of this size, and of the type that torch's own operation would give."""
    return torch.zeros(size, dtype=dtype or (of.dtype if of is not None else torch.float32))


def _writing(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, *args, **options: x.copy_(rule(x, *args, **options))


def refuse_other_draws(module: fx.GraphModule) -> None:
    """Raise `NotImplementedError` for the first random operation of a trace that is not drawn by seed."""
    for node in module.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise NotImplementedError(f"the random numbers of {node.target}{owner_of(node)}")
