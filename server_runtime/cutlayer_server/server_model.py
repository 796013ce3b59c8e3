"""The server-side half: one optimizer step for each batch of smashed data."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cutlayer.data import Batch
from cutlayer.errors import RemoteError
from cutlayer.optimizers import Optimizer
from cutlayer_cut import clip, mode, torch_optimizer

__all__ = ["Evaluation", "ServerModel", "StepResult", "client_weights", "evaluate", "load_client"]


class StepResult(NamedTuple):
    """Mean loss of the batch, samples classified correctly, and the cut gradient (B, *smashed)."""

    loss: float
    correct: int
    gradient: NDArray[np.float32]


class Evaluation(NamedTuple):
    """Mean loss and share classified correctly."""

    loss: float
    accuracy: float


class ServerModel:
    """The server-side half and its optimizer.

    Args:
        half: from `cutlayer_cut.cut`; trained in place.
        settings: its optimizer.
    """

    def __init__(self, half: nn.Module, settings: Optimizer) -> None:
        self.half = half
        self._settings, self._optimizer = settings, torch_optimizer(half.parameters(), settings)

    def step(self, smashed: NDArray[np.float32], labels: NDArray[np.uint16]) -> StepResult:
        """Forward, backward, update on smashed data (B, *smashed) with B class numbers.

        Raises:
            RemoteError: a label beyond the model's classes, a batch that the model does not take, or a loss or gradient
                that is not finite; nothing is updated.
        """
        z = torch.tensor(smashed, requires_grad=True)
        y = torch.from_numpy(labels.astype(np.int64))
        # A clone, since the half may begin with a module that works in place, such as ReLU.
        try:
            logits: Tensor = self.half(z.clone())
        except (RuntimeError, ValueError) as error:  # BatchNorm over a single sample
            raise RemoteError(f"the server-side model cannot train on a batch of {len(labels)}: {error}") from error
        if int(y.max()) >= logits.shape[1]:
            raise RemoteError(f"a label {int(y.max())} was sent, the model has {logits.shape[1]} classes")
        loss = cross_entropy(logits, y)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        assert z.grad is not None
        if not (math.isfinite(loss.item()) and math.isfinite(z.grad.norm().item())):
            raise RemoteError(f"the training loss is {loss.item()}, its gradient {z.grad.norm().item()}")
        clip(self.half.parameters(), self._settings)
        self._optimizer.step()
        return StepResult(loss.item(), int((logits.argmax(1) == y).sum()), z.grad.numpy())

    def state(self) -> dict[str, Tensor]:
        """Everything that decides what later steps do: ``half/<name>``, ``optimizer/<parameter>/<name>``, ``random``."""
        state = {f"half/{name}": tensor for name, tensor in _tensors(self.half).items()}
        for number, values in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{number}/{name}": value for name, value in values.items() if value is not None}
        return {name: tensor.detach().clone() for name, tensor in state.items()} | {"random": torch.get_rng_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on exactly as from where ``state`` was taken. Raises `KeyError` or `RuntimeError` if it is another model's."""
        with torch.no_grad():
            for name, tensor in _tensors(self.half).items():
                tensor.copy_(state[f"half/{name}"])
        found: dict[int, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            if key.startswith("optimizer/"):
                _, number, name = key.split("/", 2)
                found.setdefault(int(number), {})[name] = tensor
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": found})
        torch.set_rng_state(state["random"])


def client_weights(client: nn.Module, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The parameters and buffers that travel, as a bundle lists them. Copies."""
    tensors = _tensors(client)
    return {name: tensors[name].detach().numpy().copy() for name in names}


def load_client(client: nn.Module, weights: dict[str, NDArray[Any]]) -> None:
    """Put the weights that a device sent into the server's copy of the client-side half."""
    tensors = _tensors(client)
    with torch.no_grad():
        for name, array in weights.items():
            tensors[name].copy_(torch.from_numpy(np.array(array)))


def _tensors(client: nn.Module) -> dict[str, Tensor]:
    return {**dict(client.named_parameters()), **dict(client.named_buffers())}


def evaluate(client: nn.Module, server: nn.Module, batches: Iterable[Batch]) -> Evaluation:
    """Loss and accuracy of both halves together, in eval mode; their mode is restored."""
    losses, correct, count = 0.0, 0, 0
    with torch.inference_mode(), mode(client, training=False), mode(server, training=False):
        for x, labels in batches:
            y = torch.from_numpy(labels.astype(np.int64))
            logits = server(client(torch.from_numpy(x)))
            losses += cross_entropy(logits, y, reduction="sum").item()
            correct += int((logits.argmax(1) == y).sum())
            count += len(y)
    return Evaluation(losses / count, correct / count)
