"""The command ``cutlayer export``."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from cutlayer_core.bundles.bundle import Certificate, Client, Manifest, read_bundle
from cutlayer_core.console import print_wide
from cutlayer_core.errors import UserError
from cutlayer_core.samples.data import Preparation, load
from cutlayer_core.trial import toml
from cutlayer_core.trial.optimizers import Optimizer, Sgd
from cutlayer_core.trial.recipe import TRAINABLE, WHOLE, Model, Recipe
from cutlayer_core.trial.trial import read_trial
from cutlayer_cut import build_model, check_input, client_of, cut_model, example_batch, list_cuts
from cutlayer_export.errors import CertificateError
from cutlayer_export.export import export_bundle
from cutlayer_export.graph.form import MAX_ERROR, Form

__all__ = ["Options", "export", "export_all"]

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


def export(trial_file: Path | None, options: Options, out: Path | None, as_json: bool) -> None:
    """Export and print what was written; without ``out``, list the cuts instead. Raises what `export_bundle` raises."""
    console = Console(stderr=as_json, highlight=False)
    recipe = _recipe(trial_file, options, needs_cut=out is not None)
    if out is None:
        _list(recipe, console, as_json)
        return
    form = _form(recipe, options)
    with console.status("") as status:
        manifest = export_bundle(recipe, out, status.update, form)
    certificate = read_bundle(out).certificate
    assert certificate is not None
    if as_json:
        print(msgspec.json.encode({"bundle": str(out), "manifest": manifest, "certificate": certificate}).decode())
        return
    console.print(f"{out}: {_describe(manifest)}", soft_wrap=True)
    samples = 0 if form.samples is None else len(form.samples)
    for title, text in _findings(certificate, manifest.precision, samples):
        console.print(f"  {title:<20}{text}", soft_wrap=True)


def _findings(certificate: Certificate, precision: str, samples: int) -> Iterator[tuple[str, str]]:
    """What the certificate says, as lines with titles."""
    yield "certificate", f"worst relative error against torch {certificate.worst:.1e}"
    if certificate.redrawn:
        yield "", f"{certificate.redrawn} draws of data repeated: rounding decided in torch, too"
    if precision != "float32":
        yield precision, f"changes smashed data by {certificate.precision_error:.1e} of their size"
    if certificate.precision_accuracies is not None:
        exact, reduced = certificate.precision_accuracies
        yield "", f"accuracy {reduced:.1%} instead of {exact:.1%} in float32, on {samples} calibration samples"


def export_all(trial_file: Path | None, options: Options, folder: Path, as_json: bool) -> None:
    """Export a bundle for every possible cut, numbered in the model's order; bundles that are there already are kept.

    A cut that cannot be exported is reported and left out. Raises `UserError` if the model or its input is wrong.
    """
    console = Console(stderr=as_json, highlight=False)
    recipe = _recipe(trial_file, options, needs_cut=False)
    model = build_model(recipe.model, recipe.seed)
    check_input(recipe, model)
    with console.status(f"trying every module of {recipe.model.factory}"):
        names = [each.cut for each in list_cuts(model, example_batch(recipe))]
    done = []
    for number, name in enumerate(names, 1):
        own = msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, cut=name))
        path = folder / f"{number:03}-{name}.zip"
        with console.status(f"{number}/{len(names)}  {name}"):
            how = _exported(own, path, options)
        console.print(f"{number}/{len(names)}  {name}: {how}", soft_wrap=True)
        done.append({"cut": name, "bundle": str(path) if path.exists() else None, "how": how})
    if as_json:
        print(msgspec.json.encode(done).decode())


def _exported(recipe: Recipe, path: Path, options: Options) -> str:
    """Export one of many cuts, and return a line on how it went."""
    try:
        client, _ = client_of(recipe, cut_model(recipe))
        if _is_of(path, client, options):
            return f"{path} is there"
        path.unlink(missing_ok=True)
        export_bundle(recipe, path, form=_form(recipe, options))
    except (UserError, CertificateError) as error:
        return f"left out: {error}"
    return str(path)


def _is_of(path: Path, client: Client, options: Options) -> bool:
    """Whether ``path`` already holds a complete bundle of this client in this form."""
    try:
        bundle = read_bundle(path) if path.exists() else None
    except UserError:
        return False
    if bundle is None:
        return False
    manifest = bundle.manifest
    target = options.target if options.engine == "tflite" else ""
    wanted = (client, options.engine, target, options.precision)
    return (manifest.client, manifest.engine, manifest.target, manifest.precision) == wanted


def _describe(manifest: Manifest) -> str:
    client = manifest.client
    what = "whole" if client.cut == WHOLE else f"cut at {client.cut!r}"
    trained = sum(math.prod(spec.shape) for spec in client.params.values())
    size = f"{trained:,} parameters" if client.optimizer else "frozen, for inference only"
    return f"{client.factory} {what}\n  client-side model   {size}, smashed data {client.smashed.shape} a sample" + (
        f"\n  optimizer           {_optimizer_text(client.optimizer)}" if client.optimizer else ""
    )


def _optimizer_text(optimizer: Optimizer) -> str:
    values = msgspec.to_builtins(optimizer)
    return f"{values.pop('id')}, " + ", ".join(f"{key} {value}" for key, value in values.items() if value)


def _list(recipe: Recipe, console: Console, as_json: bool) -> None:
    model = build_model(recipe.model, recipe.seed)
    check_input(recipe, model)
    with console.status(f"trying every module of {recipe.model.factory}"):
        rows = list_cuts(model, example_batch(recipe))
    if as_json:
        print(msgspec.json.encode(rows).decode())
        return
    titles = ("cut", "smashed data", "raw bytes", "fp8 bytes", "parameters", "MFLOP forward", "backward")
    table = Table(*titles, box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        numbers = (f"{row.raw_bytes:,}", f"{row.fp8_bytes:,}", f"{row.client_parameters:,}")
        shape = "x".join(map(str, row.smashed_shape))
        table.add_row(row.cut, shape, *numbers, f"{row.forward_mflop:,.2f}", f"{row.backward_mflop:,.2f}")
    print_wide(table)
    console.print("all a sample; a multiplication with its addition counts as two FLOP")


def _recipe(trial_file: Path | None, options: Options, needs_cut: bool) -> Recipe:
    """The recipe of the trial file, overridden by the options, or one made from the options alone."""
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


def _form(recipe: Recipe, options: Options) -> Form:
    samples = labels = None
    if options.calibration is not None:
        stored = load(options.calibration, recipe.model.input, recipe.classes)
        # From all over the file or folder, which may hold one class after the other.
        number = min(len(stored.x), _CALIBRATION_SAMPLES)
        chosen = np.unique(np.linspace(0, len(stored.x) - 1, number).round().astype(int))
        samples, labels = Preparation(recipe.model.input, recipe.mean, recipe.std)(stored.x[chosen]), stored.y[chosen]
    return Form(options.engine, options.target, options.precision, samples, options.max_error, labels)


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
