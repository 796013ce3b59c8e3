"""What the command line may say of a model and of the form of its bundle."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from cutlayer_core.errors import UserError
from cutlayer_core.samples.data import Preparation, load
from cutlayer_core.trial import toml
from cutlayer_core.trial.optimizers import Optimizer, Sgd
from cutlayer_core.trial.recipe import TRAINABLE, Model, Recipe
from cutlayer_core.trial.trial import read_trial
from cutlayer_export.graph.form import MAX_ERROR, Form

__all__ = ["Options", "form_of", "recipe_of"]

_EXAMPLE = re.compile(r"(?P<shape>\d+(?:x\d+)*)(?::(?P<dtype>\w+)(?::(?P<low>\d+)\.\.(?P<high>\d+))?)?")
_CALIBRATION_SAMPLES = 200
"""More samples hardly change the ranges of activations."""
_OPTIMIZER = "sgd:learning_rate=0.01,momentum=0.9"


class Options(NamedTuple):
    """What the command line may give instead of a trial file, as text; empty where an option was not given."""

    model: str
    cut: str
    example: str
    kwargs: str
    weights: str
    optimizer: str
    trainable: str
    engine: str = "onnx"
    target: str = "xnnpack"
    precision: str = "float32"
    calibration: Path | None = None
    max_error: float = MAX_ERROR
    arrangements: bool = False


def recipe_of(trial_file: Path | None, options: Options, needs_cut: bool) -> Recipe:
    """The recipe of the trial file, overridden by the options, or one made from the options alone.

    Raises:
        UserError: something that is needed is missing, or has a wrong value.
    """
    changes = _model_changes(options)
    if trial_file is not None:
        recipe = read_trial(trial_file).recipe
        raw = {**msgspec.to_builtins(recipe.model), **changes}
    else:
        wanted = {"--model": options.model, "--example": options.example, "--cut": options.cut or not needs_cut}
        if missing := [name for name, value in wanted.items() if not value]:
            raise UserError(f"export: give a trial file, or {', '.join(missing)}")
        recipe = None
        raw = {"cut": "", **changes}
    model = toml.convert(raw, Model, "export")
    if problems := model.problems():
        raise UserError(f"export: {problems[0]}")
    optimizer = _optimizer(options.optimizer) if options.optimizer or recipe is None else recipe.optimizer
    if recipe is None:
        return Recipe(name="trial", model=model, optimizer=optimizer)
    return msgspec.structs.replace(recipe, model=model, optimizer=optimizer)


def form_of(recipe: Recipe, options: Options) -> Form:
    """The form that the options ask for, with calibration samples as a board prepares them. Raises `UserError`."""
    samples = labels = None
    if options.calibration is not None:
        stored = load(options.calibration, recipe.model.input, recipe.classes)
        # From all over the file or folder, which may hold one class after the other.
        number = min(len(stored.x), _CALIBRATION_SAMPLES)
        chosen = np.unique(np.linspace(0, len(stored.x) - 1, number).round().astype(int))
        samples, labels = Preparation(recipe.model.input, recipe.mean, recipe.std)(stored.x[chosen]), stored.y[chosen]
    form = Form(options.engine, options.target, options.precision, samples, options.max_error, labels)
    return form._replace(arrangements=options.arrangements)


def _model_changes(options: Options) -> dict[str, Any]:
    named = {"factory": options.model, "cut": options.cut, "weights": options.weights, "trainable": options.trainable}
    changes: dict[str, Any] = {key: value for key, value in named.items() if value}
    if options.trainable and not re.search(TRAINABLE, options.trainable):
        raise UserError(f"--trainable: found {options.trainable!r}, allowed: all, or last:N with N from 1")
    if options.example:
        changes |= _example(options.example)
    if options.kwargs != "{}":
        try:
            changes["kwargs"] = msgspec.json.decode(options.kwargs, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise UserError(f"--kwargs: found {options.kwargs!r}, allowed: a JSON object: {error}") from error
    return changes


def _example(text: str) -> dict[str, Any]:
    match = _EXAMPLE.fullmatch(text)
    if match is None:
        raise UserError(f"--example: found {text!r}, allowed: sizes as in 3x32x32, or 64:int64:0..9999 for tokens")
    shape = [int(size) for size in match["shape"].split("x")]
    found: dict[str, Any] = {"input_shape": shape, "input_dtype": match["dtype"] or "float32"}
    return found | ({"input_range": [int(match["low"]), int(match["high"])]} if match["low"] else {})


def _optimizer(text: str) -> Optimizer:
    name, _, settings = (text or _OPTIMIZER).partition(":")
    raw: dict[str, Any] = {"id": name, "learning_rate": 0.01 if name == "sgd" else 0.001}
    for each in filter(None, settings.split(",")):
        key, _, value = each.partition("=")
        try:
            raw[key.strip()] = msgspec.json.decode(value)
        except msgspec.MsgspecError as error:
            raise UserError(
                f"--optimizer: found {each!r}, allowed: a setting and its number, as in momentum=0.9"
            ) from error
    found: Optimizer = toml.convert(raw, Optimizer, "--optimizer")  # type: ignore[arg-type]
    if isinstance(found, Sgd) and found.nesterov and not found.momentum:
        raise UserError("--optimizer: found nesterov=true with momentum=0, allowed: with a momentum above 0")
    return found
