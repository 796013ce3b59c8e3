"""Every possible cut of a model: listed with what it costs, or exported."""

from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from cutlayer_core.console import print_wide
from cutlayer_core.errors import UserError
from cutlayer_core.trial.recipe import Recipe
from cutlayer_cut import build_model, check_input, example_batch, list_cuts
from cutlayer_export.errors import CertificateError
from cutlayer_export.kept import export_once
from cutlayer_export.options import Options, form_of, recipe_of
from cutlayer_export.sources import Sources

__all__ = ["export_all", "show_cuts"]


def show_cuts(trial_file: Path | None, options: Options, as_json: bool) -> None:
    """Print a table of all cuts. Raises `UserError` if the model or its input is wrong."""
    console = Console(stderr=as_json, highlight=False)
    recipe = recipe_of(trial_file, options, needs_cut=False)
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


def export_all(trial_file: Path | None, options: Options, folder: Path, fresh: bool, as_json: bool) -> None:
    """Export a bundle for every possible cut, numbered in the model's order.

    What was exported before is not done again, unless ``fresh``. A cut that cannot be exported is reported and left
    out. Raises `UserError` if the model or its input is wrong.
    """
    console, sources = Console(stderr=as_json, highlight=False), Sources()
    recipe = recipe_of(trial_file, options, needs_cut=False)
    with sources:
        model = build_model(recipe.model, recipe.seed)
    check_input(recipe, model)
    with console.status(f"trying every module of {recipe.model.factory}"):
        names = [each.cut for each in list_cuts(model, example_batch(recipe))]
    done = []
    for number, name in enumerate(names, 1):
        own = msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, cut=name))
        path = folder / f"{number:03}-{name}.zip"
        with console.status(f"{number}/{len(names)}  {name}"):
            how = _exported(own, path, options, sources, fresh)
        console.print(f"{number}/{len(names)}  {name}: {how}", soft_wrap=True)
        done.append({"cut": name, "bundle": str(path) if path.exists() else None, "how": how})
    if as_json:
        print(msgspec.json.encode(done).decode())


def _exported(recipe: Recipe, path: Path, options: Options, sources: Sources, fresh: bool) -> str:
    """Export one of many cuts, and return a line on how it went; nothing older stays in its place."""
    path.unlink(missing_ok=True)
    try:
        done = export_once(recipe, path, sources, form=form_of(recipe, options), fresh=fresh)
    except (UserError, CertificateError) as error:
        return f"left out: {error}"
    return f"{path}, as it was exported before" if done.reused else str(path)
