"""``cutlayer export``."""

import math
from pathlib import Path

import msgspec
from rich.console import Console

from cutlayer.bundle import read_bundle
from cutlayer.trial import read_trial
from cutlayer_export.export import export_bundle

__all__ = ["export"]


def export(trial_file: Path, out: Path, as_json: bool) -> None:
    """Export and say what was written. Raises what `export_bundle` raises."""
    console = Console(stderr=as_json, highlight=False)
    trial = read_trial(trial_file)
    with console.status(f"cutting {trial.model.factory} at {trial.model.cut!r}, exporting and certifying"):
        manifest = export_bundle(trial, out)
    bundle = read_bundle(out)
    assert bundle.certificate is not None
    if as_json:
        found = {"bundle": str(out), "manifest": manifest, "certificate": bundle.certificate}
        print(msgspec.json.encode(found).decode())
        return
    client = manifest.client
    parameters = sum(math.prod(spec.shape) for spec in client.params.values())
    console.print(f"{out}: {client.factory} cut at {client.cut!r}")
    console.print(f"  client-side model   {parameters:,} parameters, smashed data {client.smashed.shape} a sample")
    console.print(f"  certificate         worst relative error against torch autograd {bundle.certificate.worst:.1e}")
