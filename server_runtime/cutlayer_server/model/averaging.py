"""The mean of several models' weights (FedAvg)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Arrays", "average"]

Arrays = dict[str, NDArray[Any]]
"""Weights by their names in the model."""


def average(weights: Mapping[str, Arrays], samples: Mapping[str, int]) -> Arrays:
    """Mean of client weights, weighted by samples (McMahan et al., arXiv 1602.05629).

    Integers, such as BatchNorm's count of batches, take the greatest value, since a mean may not be an integer. If all
    weights are the same object, that object is returned.
    """
    first, *others = weights.values()
    if all(each is first for each in others):
        return first
    total = sum(samples[device] for device in weights)
    return {
        name: _mean([(array[name], samples[device] / total) for device, array in weights.items()]) for name in first
    }


def _mean(shares: list[tuple[NDArray[Any], float]]) -> NDArray[Any]:
    first = shares[0][0]
    if not np.issubdtype(first.dtype, np.floating):
        greatest: NDArray[Any] = np.stack([array for array, _ in shares]).max(axis=0)
        return greatest
    mean = np.zeros(first.shape, np.float64)
    for array, share in shares:
        mean += array.astype(np.float64) * share  # float32 times a Python float would stay float32
    return mean.astype(first.dtype)
