"""The bundle, run by plain onnxruntime."""

import json

import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cutlayer.bundle import read_bundle
from cutlayer.errors import UserError
from cutlayer.trial import read_trial
from cutlayer_cut import client_of, cut_trial_model
from cutlayer_export import export_bundle
from cutlayer_export.certificate import CertificateError, certify
from cutlayer_export.onnx_writer import to_onnx
from cutlayer_export.training_graph import initial_values, trace_backward, trace_forward


@pytest.fixture(scope="module")
def trial(digits):
    return read_trial(digits / "trial.toml")


def test_the_bundle_is_certified_against_torch_autograd(digits):
    certificate = read_bundle(digits / "client.bundle").certificate
    assert certificate.valid
    assert 0 < certificate.worst < 1e-5
    assert set(certificate.params) == {"stem.0.weight", "stem.0.bias", "stem.2.weight", "stem.2.bias"}
    assert set(certificate.state) == {f"momentum.{name}" for name in certificate.params}


def test_the_graphs_are_ordinary_operations_of_the_standard_opset(digits):
    for name in ("forward", "backward"):
        model = onnx.load(digits / "client.bundle" / f"{name}.onnx")
        assert [(each.domain, each.version) for each in model.opset_import] == [("", 18)]
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}


def test_the_bundle_does_not_say_where_it_was_made(digits):
    for file in (digits / "client.bundle").iterdir():
        assert b"/site-packages/" not in file.read_bytes()
        assert str(digits).encode() not in file.read_bytes()


def test_exporting_twice_gives_the_same_bytes(trial, digits, tmp_path):
    again = export_bundle(trial, tmp_path / "again")
    assert again == read_bundle(digits / "client.bundle").manifest


def test_the_description_says_what_the_board_needs(digits, trial):
    manifest = read_bundle(digits / "client.bundle").manifest
    assert manifest.trial == "demo"
    assert manifest.client.smashed.shape == (16, 4, 4)
    assert manifest.client.mean == (0.306,)
    assert manifest.versions["torch"] == torch.__version__
    assert manifest.client.fingerprint == client_of(trial, cut_trial_model(trial)).fingerprint
    written = json.loads((digits / "client.bundle" / "manifest.json").read_text())
    assert written["files"].keys() == {"forward.onnx", "backward.onnx", "params.safetensors", "certificate.json"}


def test_an_export_that_does_not_compute_what_torch_does_is_not_written(trial):
    halves = cut_trial_model(trial)
    client, optimizer = client_of(trial, halves), trial.optimizer.client
    values = initial_values(halves.client, optimizer)
    forward = to_onnx(trace_forward(halves.client, values, client.input.shape))
    other = msgspec.structs.replace(optimizer, weight_decay=0.1)
    wrong = to_onnx(trace_backward(halves.client, values, client.input.shape, client.smashed.shape, other))
    with pytest.raises(CertificateError, match=r"stem.* differs from torch autograd by"):
        certify(halves.client, values, forward, wrong, client.input.shape, optimizer)


class Unusual(nn.Module):
    """Its client has an operation that ONNX lacks."""

    def __init__(self):
        super().__init__()
        self.a = Bessel()
        self.b = nn.Linear(4, 2)

    def forward(self, x):
        return self.b(self.a(x))


class Bessel(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return torch.special.i0(x * self.scale)


def test_an_operation_without_counterpart_is_the_users_to_know(trial):
    model = msgspec.structs.replace(trial.model, factory=f"{__name__}:Unusual", cut="a", input_shape=(4,))
    unusual = msgspec.structs.replace(trial, model=model)
    halves = cut_trial_model(unusual)
    values = initial_values(halves.client, trial.optimizer.client)
    with pytest.raises(UserError, match=r"cannot be exported to ONNX: it has no counterpart of prims.bessel_i0"):
        to_onnx(trace_forward(halves.client, values, (4,)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factory": "no_such_module:f"}, "model.factory: found 'no_such_module:f', which cannot be imported"),
        ({"factory": "cutlayer_cut.zoo.digits:None_"}, "cannot be imported"),
        ({"factory": "os:getcwd"}, "returned a str, not a torch module"),
        ({"kwargs": {"colour": 1}}, "model.kwargs: .* does not take them"),
        ({"input_shape": (3, 8, 8)}, r"does not accept \[3, 8, 8\]"),
    ],
)
def test_a_model_that_cannot_be_built_is_the_users_mistake(trial, change, message):
    changed = msgspec.structs.replace(trial, model=msgspec.structs.replace(trial.model, **change))
    with pytest.raises(UserError, match=message):
        client_of(changed, cut_trial_model(changed))


def test_equal_seeds_give_equal_weights_and_leave_torch_alone(trial):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = (cut_trial_model(trial).client.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)
    arrays = {name: value.numpy() for name, value in first.items()}
    assert np.isfinite(next(iter(arrays.values()))).all()
