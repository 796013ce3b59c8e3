"""Seeds for everything random in a trial, and random samples."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.trial.recipe import InputSpec

__all__ = ["random_batch", "seed_of"]


def seed_of(*numbers: int) -> int:
    """A seed from 0 to 2**31 - 1 for a sequence of numbers, such as trial, client, epoch, step, purpose.

    Different sequences have different seeds, up to chance: among a hundred thousand, two may be alike.
    """
    return int(np.random.SeedSequence((len(numbers), *numbers)).generate_state(1)[0]) >> 1


def random_batch(spec: InputSpec, batch_size: int, random: np.random.Generator) -> NDArray[Any]:
    """A batch (batch size, *input) of whole numbers in their range, or of normally distributed floats."""
    shape = (batch_size, *spec.shape)
    if np.issubdtype(spec.dtype, np.integer):
        return random.integers(spec.low, spec.high + 1, shape).astype(spec.dtype)
    return random.standard_normal(shape).astype(spec.dtype)
