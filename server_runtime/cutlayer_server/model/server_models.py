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
        half: trained in place, or replaced by the mean of what its copies became.
        settings: of the optimizer; that of a copy starts anew with each epoch.
        copies: whether each device has one.
    """

    def __init__(self, half: nn.Module, settings: Optimizer, *, copies: bool = False) -> None:
        self._half, self._settings, self._has_copies = half, settings, copies
        self._model = ServerModel(half, settings)
        self._copies: dict[str, ServerModel] = {}

    def of(self, device: str) -> ServerModel:
        """What this device's batches train."""
        if not self._has_copies:
            return self._model
        if device not in self._copies:
            self._copies[device] = ServerModel(copy.deepcopy(self._half), self._settings)
        return self._copies[device]

    def merge(self, samples: Mapping[str, int]) -> None:
        """The epoch is over: the mean of the copies of these devices, weighted by the samples that each saw, is the model."""
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
        """What this device's batches did to its copy is of no use."""
        self._copies.pop(device, None)

    def state(self) -> dict[str, Tensor]:
        """Everything that decides what later steps do."""
        state = self._model.state()
        for device, model in self._copies.items():
            state |= {f"{_COPIES}/{device}/{name}": tensor for name, tensor in model.state().items()}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on exactly as from where ``state`` was taken. Raises `KeyError` or `RuntimeError` if it is another model's."""
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
        self._model.restore(own)  # last, for the random numbers


def _tensors(half: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in (*half.named_parameters(), *half.named_buffers())}
