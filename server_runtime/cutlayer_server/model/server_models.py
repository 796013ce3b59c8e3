"""The server-side model of a trial: one for all devices, or a copy for each, averaged after every epoch."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from cutlayer_core.trial.optimizers import Optimizer
from cutlayer_server.model.averaging import average
from cutlayer_server.model.server_model import ServerModel

__all__ = ["ServerModels"]

_COPIES = "copies"


class ServerModels:
    """Which server-side model a device's batches train.

    Invariant: between two epochs there are no copies, and ``half`` is the model.

    Args:
        half: trained in place, or replaced by the mean of its trained copies.
        settings: of the optimizer; a copy's optimizer starts afresh in each epoch.
        copies: whether each device trains a copy.
    """

    def __init__(self, half: nn.Module, settings: Optimizer, *, copies: bool = False) -> None:
        self._half, self._settings, self._has_copies = half, settings, copies
        self._model = ServerModel(half, settings)
        self._copies: dict[str, ServerModel] = {}

    def of(self, device: str) -> ServerModel:
        """The model that this device's batches train."""
        if not self._has_copies:
            return self._model
        if device not in self._copies:
            self._copies[device] = ServerModel(copy.deepcopy(self._half), self._settings)
        return self._copies[device]

    def merge(self, samples: Mapping[str, int]) -> None:
        """End an epoch: the model becomes the mean of these devices' copies, weighted by the samples that each saw."""
        arrays = {
            device: {name: tensor.cpu().numpy() for name, tensor in _tensors(model.half).items()}
            for device, model in sorted(self._copies.items())
            if device in samples
        }
        if not arrays:
            self._copies.clear()
            return
        mean = average(arrays, samples)
        with torch.no_grad():
            for name, tensor in _tensors(self._half).items():
                tensor.copy_(torch.from_numpy(np.asarray(mean[name])))
        self._copies.clear()

    def forget(self, device: str) -> None:
        """Discard what this device's batches did to its copy."""
        self._copies.pop(device, None)

    def state(self) -> dict[str, Tensor]:
        """Everything that decides what later steps do."""
        state = self._model.state()
        for device, model in self._copies.items():
            state |= {f"{_COPIES}/{device}/{name}": tensor for name, tensor in model.state().items()}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly where ``state`` was taken. Raises `KeyError` or `RuntimeError` if it is another model's."""
        copies: dict[str, dict[str, Tensor]] = {}
        own: dict[str, Tensor] = {}
        for key, tensor in state.items():
            if key.startswith(f"{_COPIES}/"):
                _, device, name = key.split("/", 2)
                copies.setdefault(device, {})[name] = tensor
            else:
                own[key] = tensor
        self._copies.clear()
        for device, each in copies.items():
            self.of(device).restore(each)
        self._model.restore(own)  # last, so that its random state stays


def _tensors(half: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in (*half.named_parameters(), *half.named_buffers())}
