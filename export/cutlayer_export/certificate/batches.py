"""The samples and cut gradients that a certificate is made with."""

from math import prod

import torch
from torch import Tensor

from cutlayer_core.bundles.bundle import Client
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_cut import examples

__all__ = ["EXAMPLE_BATCH", "MANY", "cut_gradient", "samples"]

EXAMPLE_BATCH = 5
"""Samples in the batch with which the client is traced."""
MANY = 2048
"""So many numbers are enough for a runtime to share the work of an operation among threads."""
_FEW = 3


def samples(spec: InputSpec, batch: int, seed: int, *, alike: bool) -> Tensor:
    """A batch of random inputs.

    Args:
        spec: their shape and type.
        batch: how many.
        seed: equal seeds give equal inputs.
        alike: make many entries equal: few different tokens; whole numbers, half of them zero.
    """
    x = examples(spec, batch, seed)
    if not alike:
        return x
    if spec.dtype == "int64":
        few = torch.randint(spec.low, spec.high + 1, (_FEW,), generator=torch.Generator().manual_seed(seed))
        return few[x % _FEW]
    x = x.round()
    x[..., : x.shape[-1] // 2] = 0.0
    return x


def cut_gradient(client: Client, batch: int, seed: int) -> Tensor:
    """A random cut gradient, as long as that of a mean loss; training diverges with longer ones."""
    shape = client.smashed.shape
    g = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))
    scaled: Tensor = g / (batch * prod(shape) ** 0.5)
    return scaled
