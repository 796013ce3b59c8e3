"""From a trial file to a bundle."""

from importlib.metadata import version
from pathlib import Path

import msgspec
from safetensors.torch import save as save_safetensors

from cutlayer import __version__
from cutlayer.bundle import FORMAT_VERSION, Manifest, write_bundle
from cutlayer.trial import Trial
from cutlayer_cut import client_of, cut_trial_model
from cutlayer_export.certificate import certify
from cutlayer_export.onnx_writer import OPSET, to_onnx
from cutlayer_export.training_graph import initial_values, trace_backward, trace_forward

__all__ = ["export_bundle"]


def export_bundle(trial: Trial, path: Path) -> Manifest:
    """Cut the trial's model, export its client-side half, certify it, and write the bundle to ``path``.

    Raises:
        UserError: the model, the cut or the input shape is wrong, or an operation has no ONNX counterpart.
        CertificateError: the exported graphs do not compute what torch computes; nothing is written.
    """
    halves = cut_trial_model(trial)
    client, optimizer = client_of(trial, halves), trial.optimizer.client
    x_shape, z_shape = client.input.shape, client.smashed.shape
    values = initial_values(halves.client, optimizer)
    forward = to_onnx(trace_forward(halves.client, values, x_shape))
    backward = to_onnx(trace_backward(halves.client, values, x_shape, z_shape, optimizer))
    certificate = certify(halves.client, values, forward, backward, x_shape, optimizer)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        trial=trial.name,
        client=client,
        engine="onnx",
        opset=OPSET,
        versions={"cutlayer": __version__} | {name: version(name) for name in ("torch", "onnx", "onnxruntime")},
        files={},
    )
    files = {
        "forward.onnx": forward,
        "backward.onnx": backward,
        "params.safetensors": save_safetensors(values),
        "certificate.json": msgspec.json.format(msgspec.json.encode(certificate)) + b"\n",
    }
    return write_bundle(path, manifest, files)
