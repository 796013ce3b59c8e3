"""The command ``cutlayer export``."""

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
from rich.console import Console

from cutlayer_core.bundles.bundle import Manifest, read_bundle
from cutlayer_core.bundles.certificate import Certificate
from cutlayer_core.trial.optimizers import Optimizer
from cutlayer_core.trial.recipe import WHOLE
from cutlayer_export.kept import export_once
from cutlayer_export.options import Options, form_of, recipe_of
from cutlayer_export.sources import Sources

__all__ = ["export"]


def export(trial_file: Path | None, options: Options, out: Path, fresh: bool, as_json: bool) -> None:
    """Export and print what was written.

    Args:
        trial_file: names the model; or None, if the options do.
        options: of the command line.
        out: where to write the bundle.
        fresh: whether to export again what was exported before.
        as_json: whether standard output is for machines.

    Raises:
        CutlayerError: what `export_bundle` raises.
    """
    console, sources = Console(stderr=as_json, highlight=False), Sources()
    recipe = recipe_of(trial_file, options, needs_cut=True)
    form = form_of(recipe, options)
    with console.status("") as status:
        manifest, reused = export_once(recipe, out, sources, status.update, form, fresh=fresh)
    certificate = read_bundle(out).certificate
    assert certificate is not None
    if as_json:
        found = {"bundle": str(out), "manifest": manifest, "certificate": certificate, "reused": reused}
        print(msgspec.json.encode(found).decode())
        return
    console.print(f"{out}: {_describe(manifest)}", soft_wrap=True)
    samples = 0 if form.samples is None else len(form.samples)
    for title, text in _findings(certificate, manifest.precision, samples):
        console.print(f"  {title:<20}{text}", soft_wrap=True)
    if reused:
        console.print(
            "  as it was exported before: recipe, code and packages are the same; --fresh exports it again",
            soft_wrap=True,
        )


def _findings(certificate: Certificate, precision: str, samples: int) -> Iterator[tuple[str, str]]:
    """What the certificate says, as lines with titles."""
    yield "certificate", f"worst relative error against torch {certificate.worst:.1e}"
    for name, worst in certificate.arrangements.items():
        yield "", f"{worst:.1e} in the arrangement {name!r}; a board chooses one by `cutlayer device tune`"
    for name, reason in certificate.left_out.items():
        yield "", f"without the arrangement {name!r}: {reason}"
    if certificate.redrawn:
        yield "", f"{certificate.redrawn} draws of data repeated: rounding decided in torch, too"
    if precision != "float32":
        yield precision, f"changes smashed data by {certificate.precision_error:.1e} of their size"
    if certificate.precision_accuracies is not None:
        exact, reduced = certificate.precision_accuracies
        yield "", f"accuracy {reduced:.1%} instead of {exact:.1%} in float32, on {samples} calibration samples"


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
