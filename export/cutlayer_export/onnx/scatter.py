"""Additions to places of a tensor that may be the same, in a form that onnxruntime computes rightly on all threads.

Its ``ScatterND`` with ``reduction="add"`` loses additions to a place that occurs twice (microsoft/onnxruntime#23396); its
``ScatterElements`` runs on one thread.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

__all__ = ["index_put"]


def index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """``x[indices] += values`` as one scatter over rows, in which an index may occur more than once.

    Without ``accumulate`` the operation stays whole, and so do masks: neither adds to one place twice.
    """
    chosen = [axis for axis, index in enumerate(indices) if index is not None]
    found = [index for index in indices if index is not None]
    if not accumulate or any(index.dtype == torch.bool for index in found):
        return NotImplemented
    places = torch.broadcast_tensors(*found)  # type: ignore[no-untyped-call]
    others = [axis for axis in range(x.dim()) if axis not in chosen]
    sizes = [x.shape[axis] for axis in chosen]
    row = places[0].new_zeros(places[0].shape)
    for place, size in zip(places, sizes, strict=True):
        row = row * size + torch.where(place < 0, place + size, place)
    rest, rank = [x.shape[axis] for axis in others], places[0].dim()
    # The result of indexing has the indexed axes where the first one was, if they are neighbours, and else in front.
    front = chosen[0] if chosen == list(range(chosen[0], chosen[0] + len(chosen))) else 0
    values = values.expand([*rest[:front], *places[0].shape, *rest[front:]])
    values = torch.movedim(values, list(range(front, front + rank)), list(range(rank))).reshape(-1, prod(rest))
    rows = x.permute(*chosen, *others).reshape(prod(sizes), prod(rest))
    summed = torch.scatter_add(rows, 0, row.reshape(-1, 1).expand(values.shape), values)
    order = [*chosen, *others]
    return summed.reshape([*sizes, *rest]).permute([order.index(axis) for axis in range(x.dim())])
