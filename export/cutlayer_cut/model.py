"""The model that a trial names: built with its seed, cut, and described as board and server must agree on it."""

import importlib
import sys
from pathlib import Path

import torch
from torch import nn

from cutlayer.bundle import Client, Spec
from cutlayer.errors import UserError
from cutlayer.trial import Trial
from cutlayer_cut.cut import Halves, cut

__all__ = ["build_model", "client_of", "cut_trial_model"]


def build_model(trial: Trial) -> nn.Module:
    """The whole model with the initial weights that ``seeds.weights`` gives, in train mode.

    The working directory may hold the factory's module. Raises `UserError` if the factory cannot be found or fails.
    """
    module_name, _, function = trial.model.factory.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"model.factory: found {trial.model.factory!r}, which cannot be imported: {error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seeds.weights)
        try:
            model = factory(**trial.model.kwargs)
        except TypeError as error:
            raise UserError(f"model.kwargs: {trial.model.factory} does not take them: {error}") from error
        except Exception as error:  # whatever the user's own code raises
            raise UserError(f"model.factory: {trial.model.factory} raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model.factory: {trial.model.factory} returned a {type(model).__name__}, not a torch module")
    return model.train()


def cut_trial_model(trial: Trial) -> Halves:
    """Both halves of the trial's model. Raises `UserError` as `build_model` and `cut` do."""
    return cut(build_model(trial), trial.model.cut)


def client_of(trial: Trial, halves: Halves) -> Client:
    """The description of the client-side half whose fingerprint board and server compare.

    Raises:
        UserError: the half does not accept ``model.input_shape``.
    """
    training = halves.client.training
    try:
        with torch.no_grad():
            smashed = halves.client.eval()(torch.zeros(2, *trial.model.input_shape))
    except RuntimeError as error:
        shape = list(trial.model.input_shape)
        raise UserError(f"model.input_shape: the model does not accept {shape}: {error}") from error
    finally:
        halves.client.train(training)
    if not isinstance(smashed, torch.Tensor):
        raise UserError(f"model.cut: {trial.model.cut!r} gives a {type(smashed).__name__}, allowed: one tensor")
    for side, half in (("board", halves.client), ("server", halves.server)):
        if not any(True for _ in half.parameters()):
            raise UserError(f"model.cut: {trial.model.cut!r} leaves nothing to train on the {side}; cut elsewhere")
    return Client(
        factory=trial.model.factory,
        kwargs=trial.model.kwargs,
        cut=trial.model.cut,
        input=Spec(shape=trial.model.input_shape),
        smashed=Spec(shape=tuple(smashed.shape[1:])),
        params={name: _spec(value) for name, value in halves.client.named_parameters()},
        buffers={name: _spec(value) for name, value in halves.client.named_buffers()},
        optimizer=trial.optimizer.client,
        mean=trial.data.mean,
        std=trial.data.std,
        classes=trial.data.classes,
    )


def _spec(tensor: torch.Tensor) -> Spec:
    return Spec(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
