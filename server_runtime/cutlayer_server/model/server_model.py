"""The server-side model: one optimizer step for one batch of smashed data, or for one batch of each device."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cutlayer_core.errors import RemoteError
from cutlayer_core.samples.data import Batch
from cutlayer_core.trial.optimizers import Optimizer
from cutlayer_cut import clip, mode, torch_optimizer
from cutlayer_server.model.last_layer import Sharing, cut_gradients
from cutlayer_server.model.processor import place_of

__all__ = ["Evaluation", "Part", "ServerModel", "StepResult", "Update", "client_weights", "evaluate", "load_client"]


class Part(NamedTuple):
    """A device's batch in a step: smashed data (B, *smashed), B class numbers, and its share of the loss."""

    device: str
    smashed: NDArray[np.float32]
    labels: NDArray[np.uint16]
    share: float = 1.0


class StepResult(NamedTuple):
    """Mean loss of the batch, samples classified correctly, and the cut gradient of the samples that are not shared."""

    loss: float
    correct: int
    gradient: NDArray[np.float32]


class Update(NamedTuple):
    """A result for each part, and the cut gradient (m, *smashed) of the samples that the parts share; None if none."""

    results: list[StepResult]
    shared: NDArray[np.float32] | None


class Evaluation(NamedTuple):
    """Mean loss and share classified correctly."""

    loss: float
    accuracy: float


class ServerModel:
    """The server-side model and its optimizer.

    Args:
        half: from `cutlayer_cut.cut`; trained in place, on the device that holds its parameters.
        settings: of its optimizer.
    """

    def __init__(self, half: nn.Module, settings: Optimizer) -> None:
        self.half, self._place = half, place_of(half)
        self._settings, self._optimizer = settings, torch_optimizer(half.parameters(), settings)

    def step(self, parts: Sequence[Part], sharing: Sharing | None = None) -> Update:
        """Forward, backward and one update on batches of smashed data; the loss is their sum, weighted by share.

        A device's cut gradient is that of its own loss, whatever its share.

        Raises:
            RemoteError: a label beyond the model's classes, a batch that the model does not accept, or a loss or
                gradient that is not finite; nothing is updated. It names the device if only one is to blame.
        """
        smashed = np.concatenate([part.smashed for part in parts]) if len(parts) > 1 else parts[0].smashed
        z = torch.tensor(smashed, device=self._place, requires_grad=True)
        y = [torch.from_numpy(part.labels.astype(np.int64)).to(self._place) for part in parts]
        sizes = [len(labels) for labels in y]
        # A clone, since the model may begin with a module that works in place, such as ReLU.
        try:
            with torch.set_grad_enabled(sharing is None or sharing.point == "each"):
                logits: Tensor = self.half(z.clone())
        except (RuntimeError, ValueError) as error:  # BatchNorm over a single sample
            raise RemoteError(f"the server-side model cannot train on a batch of {sum(sizes)}: {error}") from error
        found = torch.split(logits, sizes)
        for part, scores, labels in zip(parts, found, y, strict=True):
            _check_labels(part, scores, labels)
        losses = [cross_entropy(scores, labels) for scores, labels in zip(found, y, strict=True)]
        self._optimizer.zero_grad()
        shares = [part.share for part in parts]
        gradients, shared = cut_gradients(self.half, z, logits, losses, y, shares, sharing)
        for part, loss, gradient in zip(parts, losses, gradients, strict=True):
            _check_finite(part, loss, gradient)
        if shared is not None and not math.isfinite(shared.norm().item()):
            raise RemoteError("the gradient that devices share is not finite")
        clip(self.half.parameters(), self._settings)
        self._optimizer.step()
        results = [
            StepResult(loss.item(), int((scores.argmax(1) == labels).sum()), gradient.cpu().numpy())
            for loss, scores, labels, gradient in zip(losses, found, y, gradients, strict=True)
        ]
        return Update(results, None if shared is None else shared.cpu().numpy())

    def state(self) -> dict[str, Tensor]:
        """Everything that decides what later steps do: ``half/<name>``, ``optimizer/<parameter>/<name>``, ``random``.

        Copies, in host memory, wherever the model is.
        """
        state = {f"half/{name}": tensor for name, tensor in _tensors(self.half).items()}
        for number, values in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{number}/{name}": value for name, value in values.items() if value is not None}
        kept = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
        if self._place.type == "cuda":
            kept["random/cuda"] = torch.cuda.get_rng_state(self._place)
        return kept | {"random": torch.get_rng_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue exactly where ``state`` was taken. Raises `KeyError` or `RuntimeError` if it is another model's."""
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
        if self._place.type == "cuda" and "random/cuda" in state:  # the run may have begun without CUDA
            torch.cuda.set_rng_state(state["random/cuda"], self._place)


def _check_labels(part: Part, scores: Tensor, labels: Tensor) -> None:
    if int(labels.max()) >= scores.shape[1]:
        raise _fault(part, f"a label {int(labels.max())} was sent, the model has {scores.shape[1]} classes")


def _check_finite(part: Part, loss: Tensor, gradient: Tensor) -> None:
    if not (math.isfinite(loss.item()) and math.isfinite(gradient.norm().item())):
        raise _fault(part, f"the training loss is {loss.item()}, its gradient {gradient.norm().item()}")


def _fault(part: Part, what: str) -> RemoteError:
    error = RemoteError(what)
    error.device = part.device
    return error


def client_weights(client: nn.Module, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The parameters and buffers that travel, as a bundle lists them. Copies."""
    tensors = _tensors(client)
    return {name: tensors[name].detach().cpu().numpy().copy() for name in names}


def load_client(client: nn.Module, weights: dict[str, NDArray[Any]]) -> None:
    """Load the weights that a device sent into the server's copy of the client-side model."""
    tensors = _tensors(client)
    with torch.no_grad():
        for name, array in weights.items():
            tensors[name].copy_(torch.from_numpy(np.array(array)))


def _tensors(client: nn.Module) -> dict[str, Tensor]:
    return {**dict(client.named_parameters()), **dict(client.named_buffers())}


def evaluate(client: nn.Module, server: nn.Module, batches: Iterable[Batch]) -> Evaluation:
    """Loss and accuracy of both halves together, on the same device and in eval mode; their mode is restored."""
    losses, correct, count, place = 0.0, 0, 0, place_of(client, server)
    with torch.inference_mode(), mode(client, training=False), mode(server, training=False):
        for x, labels in batches:
            y = torch.from_numpy(labels.astype(np.int64)).to(place)
            logits = server(client(torch.from_numpy(x).to(place)))
            losses += cross_entropy(logits, y, reduction="sum").item()
            correct += int((logits.argmax(1) == y).sum())
            count += len(y)
    return Evaluation(losses / count, correct / count)
