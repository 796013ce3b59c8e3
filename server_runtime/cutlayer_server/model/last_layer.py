"""From losses to cut gradients: of each device's own batch, or with the last-layer gradients of some samples averaged.

The second is EPSL: Lin et al., "Efficient parallel split learning over resource-constrained wireless edge networks" (arXiv
2303.15991). A device's samples have the same scale whether they are shared or not: that of the mean over its own batch.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softmax

__all__ = ["Sharing", "cut_gradients"]


class Sharing(NamedTuple):
    """Which share of a batch is averaged over devices, and where its gradient is backpropagated."""

    phi: float
    point: Literal["mean", "each"]

    def samples(self, smallest_batch: int) -> int:
        """The number m of shared samples per device."""
        return math.ceil(self.phi * smallest_batch - 1e-9)  # 0.07 of 100 is 7, not 8


def cut_gradients(
    half: nn.Module,
    z: Tensor,
    logits: Tensor,
    losses: Sequence[Tensor],
    labels: Sequence[Tensor],
    shares: Sequence[float],
    sharing: Sharing | None,
) -> tuple[list[Tensor], Tensor | None]:
    """The backward pass; leaves gradients of the summed loss in the parameters of ``half``.

    Args:
        half: the server-side model.
        z: smashed data of all devices, concatenated.
        logits: the output of ``half`` for them; without a graph if samples are shared at their mean.
        losses: the mean loss of each device.
        labels: class numbers of each device.
        shares: each device's share of the loss.
        sharing: None if no samples are shared.

    Returns:
        For each device the cut gradient of its own loss, starting at its first sample that is not shared; and that of
        the shared samples, (m, *smashed), or None.
    """
    sizes = [len(each) for each in labels]
    if sharing is None:
        loss = sum((loss * share for loss, share in zip(losses, shares, strict=True)), start=torch.zeros(()))
        torch.autograd.backward(loss)
        return [rows / share for rows, share in zip(torch.split(_gradient(z), sizes), shares, strict=True)], None
    number = sharing.samples(min(sizes))
    outputs = [
        (softmax(scores.detach(), 1) - one_hot(each, scores.shape[1])) / len(each)
        for scores, each in zip(torch.split(logits, sizes), labels, strict=True)
    ]
    common = _mean([rows[:number] for rows in outputs], shares)
    if sharing.point == "each":
        pushed = [torch.cat([common, rows[number:]]) * share for rows, share in zip(outputs, shares, strict=True)]
        torch.autograd.backward(logits, torch.cat(pushed))
        found = torch.split(_gradient(z), sizes)
        shared, own = torch.stack([rows[:number] for rows in found]).sum(dim=0), [rows[number:] for rows in found]
    else:
        parts = torch.split(z.detach(), sizes)
        middle = _mean([rows[:number] for rows in parts], shares)
        pushed = [common, *(rows[number:] * share for rows, share in zip(outputs, shares, strict=True))]
        inputs = torch.cat([middle, *(rows[number:] for rows in parts)]).requires_grad_()
        torch.autograd.backward(_again(half, inputs), torch.cat(pushed))
        shared, *own = torch.split(_gradient(inputs), [number, *(size - number for size in sizes)])
    return [rows / share for rows, share in zip(own, shares, strict=True)], shared


def _again(half: nn.Module, inputs: Tensor) -> Tensor:
    """A second forward pass that leaves the running statistics unchanged, since its inputs are partly made up."""
    before = {name: buffer.clone() for name, buffer in half.named_buffers()}
    logits: Tensor = half(inputs.clone())
    with torch.no_grad():
        for name, buffer in half.named_buffers():
            buffer.data = before[name]
    return logits


def _mean(rows: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    return torch.stack([each * share for each, share in zip(rows, shares, strict=True)]).sum(dim=0)


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad
