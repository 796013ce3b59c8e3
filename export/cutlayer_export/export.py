"""Exports the client-side model of a recipe as a bundle."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec
from safetensors.torch import save as save_safetensors

from cutlayer_core import __version__
from cutlayer_core.bundles.bundle import FORMAT_VERSION, Manifest, check_place, write_bundle
from cutlayer_core.trial.recipe import Recipe
from cutlayer_cut import build_model, client_of, cut_model, examples, up_to_cut
from cutlayer_export.arrangements import arranged
from cutlayer_export.certificate.batches import EXAMPLE_BATCH
from cutlayer_export.certificate.certificate import certify
from cutlayer_export.certificate.reduction import reduction_of
from cutlayer_export.graph.form import FLOAT32_ONNX, Form
from cutlayer_export.graph.training_graph import initial_values, trace_inference, trace_training

__all__ = ["export_bundle"]


def export_bundle(
    recipe: Recipe,
    path: Path,
    tell: Callable[[str], None] = lambda stage: None,
    form: Form = FLOAT32_ONNX,
) -> Manifest:
    """Cut the recipe's model, export its client-side half, certify it, and write the bundle to ``path``.

    Args:
        recipe: names the model to export.
        path: where to write it: a directory, or a ``.zip``.
        tell: called at the beginning of each stage, with a line about it.
        form: how the graphs are written.

    Raises:
        UserError: the model, the cut, its inputs or the form are wrong, or an operation cannot be exported; nothing is
            written.
        CertificateError: the exported graphs do not compute what torch computes; nothing is written.
    """
    check_place(path)
    tell(f"cutting {recipe.model.factory} at {recipe.model.cut!r}")
    model = build_model(recipe.model, recipe.seed)
    module = (halves := cut_model(recipe, model)).client
    client, state = client_of(recipe, halves)
    form.check(trains=client.optimizer is not None)
    example, trainable = examples(client.input, EXAMPLE_BATCH, recipe.seed), recipe.model.trainable
    values = initial_values(state, client.optimizer)
    tell("tracing inference")
    inference, training = trace_inference(module, state, example), None
    if client.optimizer is not None:
        tell("tracing training")
        training = trace_training(module, state, example, trainable, client.optimizer)
    arrays = {name: value.numpy() for name, value in values.items()}
    source = up_to_cut(model, client.cut, module, example)
    sizes = {*inference.other_sizes, *(training.other_sizes if training else ())}
    certify_graphs = partial(certify, source, module, trainable, client, arrays, sizes=sizes)
    written, certificate, graphs = arranged(inference, training, form, certify_graphs, tell)
    if written.reduced is not None:
        tell(f"comparing {form.precision} with float32")
        x = example.numpy() if form.samples is None else form.samples
        reduction = reduction_of(written.graphs.inference, written.reduced, arrays, x, form, halves.server)
        certificate = msgspec.structs.replace(
            certificate, precision_error=reduction.error, precision_accuracies=reduction.accuracies
        )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        trial=recipe.name,
        client=client,
        engine=form.engine,
        target=form.target if form.engine == "tflite" else "",
        precision=form.precision,
        opset=written.opset,
        versions={"cutlayer": __version__, "torch": version("torch"), **written.versions},
        files={},
        arrangements=tuple(certificate.arrangements),
        tables=written.tables,
    )
    files = {f"{name}.{form.engine}": graph for name, graph in graphs.items()}
    files["params.safetensors"] = save_safetensors(values)
    files["certificate.json"] = msgspec.json.format(msgspec.json.encode(certificate)) + b"\n"
    return write_bundle(path, manifest, files)
