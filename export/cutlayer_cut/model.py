"""The model that a recipe names: built from its seed, loaded with its weights, cut, and described."""

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from cutlayer_core.bundles.bundle import Client
from cutlayer_core.errors import UserError
from cutlayer_core.trial.recipe import WHOLE, InputSpec, Model, Recipe, Spec
from cutlayer_cut.cut import cut
from cutlayer_cut.halves import Halves
from cutlayer_cut.modes import mode
from cutlayer_cut.state import ClientState, client_state

__all__ = ["build_model", "check_input", "client_of", "cut_model", "example_batch", "examples"]

_BATCH = 3


def build_model(model: Model, seed: int) -> nn.Module:
    """The whole model in train mode, with the weights in ``model.weights``, or else initial ones drawn from ``seed``.

    The factory's module may lie in the working directory.

    Raises:
        UserError: the factory cannot be found or fails, or the weights belong to another model.
    """
    module_name, _, function = model.factory.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module_name), function)
    except Exception as error:  # importing runs the user's own code
        raise UserError(
            f"model.factory: found {model.factory!r}, which cannot be imported: {_reason(error)}"
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = _call(model, factory)
        tensors = [*built.parameters(), *built.buffers()]
        if any(isinstance(each, UninitializedParameter | UninitializedBuffer) for each in tensors):
            _fill_in(built, model, seed)
    if model.weights:
        _load(built, Path(model.weights))
    _require_float32(built)
    return built.train()


def _call(model: Model, factory: Any) -> nn.Module:
    try:
        built = factory(**model.kwargs)
    except TypeError as error:
        raise UserError(f"model.kwargs: {model.factory} does not take them: {_reason(error)}") from error
    except Exception as error:  # whatever the user's own code raises
        raise UserError(f"model.factory: {model.factory} raised {type(error).__name__}: {_reason(error)}") from error
    if not isinstance(built, nn.Module):
        raise UserError(f"model.factory: {model.factory} returned a {type(built).__name__}, not a torch module")
    if isinstance(built, torch.jit.ScriptModule):
        raise UserError(
            f"model.factory: {model.factory} returned a model that torch.jit has compiled; return it as it was before "
            "(modules inside it may be compiled)"
        )
    return built


def _reason(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).strip().split("\n", 1)[0]


def _require_float32(built: nn.Module) -> None:
    for name, each in built.named_parameters():
        if each.is_floating_point() and each.dtype != torch.float32:
            raise UserError(
                f"model.factory: the parameter {name!r} is {str(each.dtype).removeprefix('torch.')}, allowed: float32; "
                "return the model as model.float()"
            )


def _fill_in(built: nn.Module, model: Model, seed: int) -> None:
    """Run a first batch, from which lazy modules take their sizes."""
    try:
        with torch.no_grad():
            built(examples(model.input, _BATCH, seed))
    except Exception as error:  # whatever the user's own code raises
        shape = list(model.input_shape)
        raise UserError(f"model.input_shape: the model does not accept {shape}: {_reason(error)}") from error


def _load(model: nn.Module, path: Path) -> None:
    """Load a state dict; a ``.pth`` is read with ``weights_only``, so that no code in it is run."""
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # an unpickler has no common base for what it refuses
        raise UserError(f"model.weights: {path} cannot be read as a state dict: {_reason(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise UserError(f"model.weights: {path} holds no state dict (names to tensors)")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"model.weights: {path} holds the weights of another model: {reason[:400]}") from error


def examples(spec: InputSpec, batch: int, seed: int) -> Tensor:
    """A batch of random inputs: normally distributed floats, or integers within the range of ``spec``."""
    generator = torch.Generator().manual_seed(seed)
    if spec.dtype == "int64":
        return torch.randint(spec.low, spec.high + 1, (batch, *spec.shape), generator=generator)
    return torch.randn(batch, *spec.shape, generator=generator)


def cut_model(recipe: Recipe, model: nn.Module | None = None) -> Halves:
    """Both halves of the recipe's model; with the cut "none" the client has the whole model and the server nothing.

    Args:
        recipe: names the model and the cut.
        model: what `build_model` made of this recipe, where that is at hand; the halves share its parameters.

    Raises:
        UserError: as in `build_model` and `cut`, or the model does not accept the inputs that the recipe describes.
    """
    model = build_model(recipe.model, recipe.seed) if model is None else model
    check_input(recipe, model)
    if recipe.model.cut == WHOLE:
        return Halves(model, nn.Identity())
    return cut(model, recipe.model.cut, example_batch(recipe))


def check_input(recipe: Recipe, model: nn.Module) -> None:
    """Raise `UserError` if the model does not accept the inputs that the recipe describes."""
    _require_one_input(model)
    try:
        with torch.no_grad(), mode(model, training=False):
            model(example_batch(recipe))
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        given = f"{recipe.model.input_dtype} of shape {list(recipe.model.input_shape)}"
        raise UserError(f"model.input_shape: the model does not accept {given}: {_reason(error)}") from error


def _require_one_input(model: nn.Module) -> None:
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # code without a signature
        return
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [each.name for each in parameters if each.default is each.empty and each.kind in positional]
    if len(needed) > 1:
        raise UserError(
            f"model.factory: the model's forward takes {len(needed)} inputs ({', '.join(needed)}), allowed: one tensor; "
            "wrap it in a module that makes the others, or takes them apart from one tensor"
        )


def client_of(recipe: Recipe, halves: Halves) -> tuple[Client, ClientState]:
    """The client-side half's description, whose fingerprint board and server compare, and its tensors.

    Raises:
        UserError: there is nothing to train on the board, or on the server.
    """
    example, whole = example_batch(recipe), recipe.model.cut == WHOLE
    with torch.no_grad(), mode(halves.client, training=False):
        smashed = halves.client(example)
    if not isinstance(smashed, Tensor) or smashed.dim() == 0 or len(smashed) != len(example):
        raise UserError(f"model.cut: {recipe.model.cut!r} gives no tensor whose first dimension is the batch")
    if smashed.dtype != torch.float32:
        raise UserError(f"model.cut: {recipe.model.cut!r} gives {smashed.dtype}, allowed: torch.float32")
    if not whole and not any(True for _ in halves.server.parameters()):
        raise UserError(f"model.cut: {recipe.model.cut!r} leaves nothing to train on the server; cut elsewhere")
    state = client_state(halves.client, example, "none" if whole else recipe.model.trainable)
    client = Client(
        factory=recipe.model.factory,
        kwargs=recipe.model.kwargs,
        cut=recipe.model.cut,
        input=recipe.model.input,
        smashed=Spec(shape=tuple(smashed.shape[1:])),
        params={name: _spec(value) for name, value in state.params.items()},
        buffers={name: _spec(value) for name, value in state.buffers.items()},
        constants=state.fingerprint,
        optimizer=recipe.optimizer if state.params else None,
        mean=recipe.mean,
        std=recipe.std,
        classes=recipe.classes,
    )
    return client, state


def example_batch(recipe: Recipe) -> Tensor:
    """A small batch of random inputs of the shape and type that the recipe describes."""
    return examples(recipe.model.input, _BATCH, recipe.seed)


def _spec(tensor: Tensor) -> Spec:
    dtype: Any = str(tensor.dtype).removeprefix("torch.")
    return Spec(shape=tuple(tensor.shape), dtype=dtype)
