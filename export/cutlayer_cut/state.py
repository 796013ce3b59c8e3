"""Sorts the tensors of a client-side half: trained, changed by a forward pass, or constant."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, equal, nn
from torch.func import functional_call

from cutlayer_core.errors import UserError
from cutlayer_cut.modes import mode

__all__ = ["ClientState", "client_state", "training"]

Tensors = dict[str, Tensor]


class ClientState(NamedTuple):
    """Copies of a client's tensors, by name.

    Attributes:
        params: trained by the optimizer.
        buffers: changed by a forward pass in train mode, such as BatchNorm's running statistics.
        constants: everything else, such as frozen parameters and tables of positions.
    """

    params: Tensors
    buffers: Tensors
    constants: Tensors

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the constants, which never travel; empty if there are none."""
        digest = hashlib.sha256()
        for name, value in sorted(self.constants.items()):
            digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
            digest.update(value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest() if self.constants else ""


def client_state(client: nn.Module, example: Tensor, trainable: str) -> ClientState:
    """Sort the tensors of ``client``, which keeps its train/eval mode.

    Args:
        client: a client-side half.
        example: a batch of inputs that it takes.
        trainable: "all" parameters that require gradients, "none", or "last:N": those of the last N modules that have
            parameters of their own.

    Raises:
        UserError: there are fewer than N such modules, or no trainable parameter influences the output.
    """
    tensors = {**dict(client.named_parameters()), **dict(client.named_buffers())}
    copies = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    if trainable == "none":
        return ClientState({}, {}, copies)
    chosen = _chosen(client, trainable)
    with training(client, trainable):
        changed, used = _run(client, copies, chosen, example)
    if not used:
        raise UserError("model.trainable: the part before the cut has nothing to train; cut later, or freeze it")
    kinds = {name: "params" if name in used else "buffers" if name in changed else "constants" for name in copies}
    return ClientState(*({name: copies[name] for name in kinds if kinds[name] == kind} for kind in ClientState._fields))


@contextmanager
def training(module: nn.Module, trainable: str, of: nn.Module | None = None) -> Iterator[None]:
    """Put ``module`` in train mode, except what "last:N" freezes: BatchNorm there uses its running statistics.

    Args:
        module: a client-side half, or a model that contains one.
        trainable: as in `client_state`.
        of: the client-side half whose modules are counted, where it is not ``module`` itself.
    """
    with mode(module, training=True):
        for name in _frozen(of or module, trainable):
            module.get_submodule(name).training = False
        yield


def _frozen(client: nn.Module, trainable: str) -> list[str]:
    """Names of the modules with parameters that "last:N" does not train."""
    if not trainable.startswith("last:"):
        return []
    chosen, frozen = _chosen(client, trainable), []
    for name, module in client.named_modules():
        own = [f"{name}.{each}".lstrip(".") for each, _ in module.named_parameters(recurse=False)]
        if own and not chosen.intersection(own):
            frozen.append(name)
    return frozen


def _chosen(client: nn.Module, trainable: str) -> set[str]:
    names = {name for name, value in client.named_parameters() if value.requires_grad}
    if trainable == "all":
        return names
    count = int(trainable.removeprefix("last:"))
    owners = list(dict.fromkeys(name.rpartition(".")[0] for name, _ in client.named_parameters()))
    if count > len(owners):
        raise UserError(
            f"model.trainable: found {trainable!r}, the part before the cut has {len(owners)} modules with parameters"
        )
    return {name for name in names if name.rpartition(".")[0] in owners[-count:]}


def _run(client: nn.Module, tensors: Tensors, chosen: set[str], example: Tensor) -> tuple[set[str], set[str]]:
    """Names of the tensors that a forward pass changes, and of the chosen ones that the output depends on."""
    inputs = {name: value.clone().requires_grad_(name in chosen) for name, value in tensors.items()}
    with torch.random.fork_rng(devices=[]):
        z: Tensor = functional_call(client, inputs, (example,))
    changed = {name for name, value in tensors.items() if name not in chosen and not equal(inputs[name], value)}
    if not z.requires_grad:
        return changed, set()
    ordered = [name for name in tensors if name in chosen]
    gradients = torch.autograd.grad(z.sum(), [inputs[name] for name in ordered], allow_unused=True)
    return changed, {name for name, gradient in zip(ordered, gradients, strict=True) if gradient is not None}
