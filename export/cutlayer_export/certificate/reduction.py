"""What fewer bits cost: how far they move the smashed data, and how many samples are classified right with them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cutlayer_core.errors import UserError
from cutlayer_cut import mode
from cutlayer_export.graph.form import Arrays, Form, Run

__all__ = ["Reduction", "reduction_of"]

Samples = NDArray[Any]
_BATCH = 32


class Reduction(NamedTuple):
    """What a graph with fewer bits computes, compared with the one in float32.

    Attributes:
        error: root mean square of the differences between their smashed data, relative to that of the smashed data.
        accuracies: share of labelled samples that are classified right, in float32 and with fewer bits; None without
            labels, or where the model's result is not one score for each class.
    """

    error: float
    accuracies: tuple[float, float] | None = None


def reduction_of(exact: Run, reduced: Run, arrays: Arrays, x: Samples, form: Form, server: nn.Module) -> Reduction:
    """Compare both graphs on ``x``, (N, *input), and what the server's half makes of their smashed data.

    Raises:
        UserError: the error exceeds ``form.max_error``, or smashed data are not finite.
    """
    wanted, found = (np.concatenate(list(_smashed(run, arrays, x))) for run in (exact, reduced))
    scale = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64)))) or 1.0
    error = float(np.sqrt(np.mean(np.square(found - wanted, dtype=np.float64)))) / scale
    if not np.isfinite(error):
        raise UserError(f"--precision {form.precision}: smashed data are not finite with it; use more bits")
    if error > form.max_error:
        raise UserError(
            f"--precision {form.precision}: it changes smashed data by {error:.1%} of their size, allowed: up to "
            f"{form.max_error:.1%}; use more bits, other samples for --calibration, or a higher --max-error"
        )
    return Reduction(error, None if form.labels is None else _accuracies(server, wanted, found, form.labels))


def _accuracies(server: nn.Module, wanted: Samples, found: Samples, labels: Samples) -> tuple[float, float] | None:
    first, second = (_scores(server, each) for each in (wanted, found))
    if first.ndim != 2 or first.shape[1] <= labels.max():
        return None
    return float(np.mean(first.argmax(1) == labels)), float(np.mean(second.argmax(1) == labels))


def _smashed(run: Run, arrays: Arrays, x: Samples) -> Iterator[Samples]:
    for at in range(0, len(x), _BATCH):
        yield run({**arrays, "x": x[at : at + _BATCH]})["z"]


def _scores(server: nn.Module, z: Samples) -> Samples:
    with mode(server, training=False), torch.no_grad():
        return np.concatenate([server(part).numpy() for part in torch.split(torch.from_numpy(z), _BATCH)])
