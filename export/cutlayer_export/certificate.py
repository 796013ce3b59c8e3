"""The certificate: how far the exported graphs, run by the stock runtime, are from torch autograd.

Both sides train the same client with the same random batches and cut gradients. The error of a tensor is the greatest
absolute difference divided by the greatest absolute value of torch's tensor, or by a hundredth of the greatest of its
kind if that is more: a gradient that is zero but for rounding, such as that of a bias before BatchNorm, is all noise.
"""

import copy

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cutlayer.bundle import TOLERANCE, Certificate
from cutlayer.errors import CutlayerError
from cutlayer.optimizers import Sgd

__all__ = ["CertificateError", "certify"]

Tensors = dict[str, Tensor]
STEPS = 5
BATCH_SIZES = (2, 5, 8)
_NOISE = 0.01


class CertificateError(CutlayerError):
    """The exported client does not compute what torch computes."""


def certify(
    client: nn.Module, values: Tensors, forward: bytes, backward: bytes, input_shape: tuple[int, ...], optimizer: Sgd
) -> Certificate:
    """Train ``STEPS`` steps on both sides at each of ``BATCH_SIZES``, and compare everything.

    Raises:
        CertificateError: an error exceeds the tolerance; the text names the tensor.
    """
    errors: dict[str, float] = {}
    for batch_size in BATCH_SIZES:
        for name, error in _compare(client, values, forward, backward, (batch_size, *input_shape), optimizer).items():
            errors[name] = max(errors.get(name, 0.0), error)
    name, worst = max(errors.items(), key=lambda item: item[1] if np.isfinite(item[1]) else np.inf)
    if not worst <= TOLERANCE:
        raise CertificateError(f"{name} differs from torch autograd by {worst:.1e}, more than {TOLERANCE:.0e} allowed")
    kinds = {
        kind: {name.removeprefix(f"{kind}."): error for name, error in errors.items() if name.startswith(f"{kind}.")}
        for kind in ("params", "buffers", "state")
    }
    return Certificate(steps=STEPS, batch_sizes=BATCH_SIZES, smashed=errors["z"], **kinds)


def _compare(
    client: nn.Module, values: Tensors, forward: bytes, backward: bytes, x_shape: tuple[int, ...], settings: Sgd
) -> dict[str, float]:
    reference = copy.deepcopy(client)
    optimizer = torch.optim.SGD(
        reference.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )
    graphs = [onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]) for graph in (forward, backward)]
    kept = {name: value.numpy().copy() for name, value in values.items()}
    rate = np.float32(settings.learning_rate)
    generator = torch.Generator().manual_seed(0)
    errors = {"z": 0.0}
    for _ in range(STEPS):
        x = torch.randn(x_shape, generator=generator)
        z = reference(x)
        g = torch.randn(z.shape, generator=generator) / z.shape[0]
        optimizer.zero_grad()
        z.backward(g)
        optimizer.step()
        offered = {"x": x.numpy(), "g": g.numpy(), "learning_rate": np.asarray(rate)}
        outputs = _run(graphs[0], offered | kept)
        errors["z"] = max(errors["z"], _error(outputs.pop("z"), z))
        outputs |= _run(graphs[1], offered | kept)
        kept |= {name.removeprefix("new_"): array for name, array in outputs.items()}
    wanted: Tensors = {f"params.{name}": value for name, value in reference.named_parameters()}
    wanted |= {f"buffers.{name}": value for name, value in reference.named_buffers()}
    for name, param in reference.named_parameters():
        if f"state.momentum.{name}" in kept:
            wanted[f"state.momentum.{name}"] = optimizer.state[param]["momentum_buffer"]
    return errors | _errors(kept, wanted)


def _errors(found: dict[str, NDArray[np.float32]], wanted: Tensors) -> dict[str, float]:
    """The error of each of ``wanted``, whose names begin with their kind."""
    greatest: dict[str, float] = {}
    for name, value in wanted.items():
        kind = name.split(".", 1)[0]
        greatest[kind] = max(greatest.get(kind, 0.0), float(value.detach().abs().max()))
    floors = {kind: _NOISE * value for kind, value in greatest.items()}
    return {name: _error(found[name], value, floors[name.split(".", 1)[0]]) for name, value in wanted.items()}


def _run(
    session: onnxruntime.InferenceSession, offered: dict[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    names = [each.name for each in session.get_outputs()]
    feeds = {each.name: offered[each.name] for each in session.get_inputs()}
    return dict(zip(names, session.run(names, feeds), strict=True))


def _error(found: NDArray[np.float32], wanted: Tensor, floor: float = 0.0) -> float:
    reference = wanted.detach().numpy().astype(np.float64)
    scale = max(float(np.abs(reference).max(initial=0.0)), floor) or 1.0
    return float(np.abs(found.astype(np.float64) - reference).max(initial=0.0) / scale)
