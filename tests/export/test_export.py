"""The bundle, run by plain onnxruntime."""

import json

import msgspec
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.errors import UserError
from cutlayer_core.trial.trial import read_trial
from cutlayer_cut import client_of, cut_model
from cutlayer_cut.zoo.digits import DigitsNet
from cutlayer_export import export_bundle
from cutlayer_export.errors import CertificateError
from cutlayer_export.graph.optimizer_step import optimizer_step


@pytest.fixture(scope="module")
def trial(digits):
    return read_trial(digits / "trial.toml")


def test_the_bundle_is_certified_against_torch_autograd(digits):
    certificate = read_bundle(digits / "client.bundle").certificate
    assert certificate.valid
    assert 0 < certificate.worst < 1e-5
    names = {"stem.0.weight", "stem.0.bias", "stem.2.weight", "stem.2.bias"}
    kinds = {f"{kind}.{name}" for kind in ("params", "gradients", "state.momentum") for name in names}
    assert set(certificate.errors) == {"z", "inference.z"} | kinds


def test_the_graphs_are_ordinary_operations_of_the_standard_opset(digits):
    for name in ("inference", "forward", "backward"):
        model = onnx.load(digits / "client.bundle" / f"{name}.onnx")
        assert [(each.domain, each.version) for each in model.opset_import] == [("", 18)]
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}


def test_the_bundle_does_not_say_where_it_was_made(digits):
    for file in (digits / "client.bundle").iterdir():
        assert b"/site-packages/" not in file.read_bytes()
        assert str(digits).encode() not in file.read_bytes()


def test_exporting_twice_gives_the_same_bytes(trial, digits, tmp_path):
    again = export_bundle(trial.recipe, tmp_path / "again")
    assert again == read_bundle(digits / "client.bundle").manifest


def test_the_description_says_what_the_board_needs(digits, trial):
    manifest = read_bundle(digits / "client.bundle").manifest
    assert manifest.trial == "demo"
    assert manifest.client.smashed.shape == (16, 4, 4)
    assert manifest.client.mean == (0.306,)
    assert manifest.versions["torch"] == torch.__version__
    assert manifest.client.fingerprint == client_of(trial.recipe, cut_model(trial.recipe))[0].fingerprint
    written = json.loads((digits / "client.bundle" / "manifest.json").read_text())
    assert written["files"].keys() == {
        "inference.onnx", "forward.onnx", "backward.onnx", "params.safetensors", "certificate.json",
    }  # fmt: skip


@pytest.mark.parametrize("wrong", ["weight_decay", "learning_rate"])
def test_an_export_that_does_not_compute_what_torch_does_is_not_written(trial, tmp_path, monkeypatch, wrong):
    def other(params, gradients, state, learning_rate, step, settings):
        if wrong == "learning_rate":
            learning_rate = learning_rate * 1.001
        changed = msgspec.structs.replace(settings, weight_decay=0.1 if wrong == "weight_decay" else 0.0)
        return optimizer_step(params, gradients, state, learning_rate, step, changed)

    monkeypatch.setattr("cutlayer_export.graph.training_graph.optimizer_step", other)
    with pytest.raises(CertificateError, match=r"stem.* differs from torch by"):
        export_bundle(trial.recipe, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factory": "no_such_module:f"}, "model.factory: found 'no_such_module:f', which cannot be imported"),
        ({"factory": "cutlayer_cut.zoo.digits:None_"}, "cannot be imported"),
        ({"factory": "os:getcwd"}, "returned a str, not a torch module"),
        ({"kwargs": {"colour": 1}}, "model.kwargs: .* does not take them"),
        ({"input_shape": (3, 8, 8)}, r"does not accept float32 of shape \[3, 8, 8\]"),
        ({"trainable": "last:9"}, "model.trainable: found 'last:9', the part before the cut has 2 modules"),
        ({"weights": "none.pth"}, "model.weights: none.pth cannot be read"),
    ],
)
def test_a_model_that_cannot_be_built_is_the_users_mistake(trial, change, message):
    changed = msgspec.structs.replace(trial, model=msgspec.structs.replace(trial.model, **change))
    with pytest.raises(UserError, match=message):
        client_of(changed.recipe, cut_model(changed.recipe))


def test_equal_seeds_give_equal_weights_and_leave_torch_alone(trial):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = (cut_model(trial.recipe).client.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)
    arrays = {name: value.numpy() for name, value in first.items()}
    assert np.isfinite(next(iter(arrays.values()))).all()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_file_are_those_of_the_bundle(trial, tmp_path, suffix):
    torch.manual_seed(9)
    state = DigitsNet().state_dict()
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    recipe = msgspec.structs.replace(trial.recipe, model=msgspec.structs.replace(trial.model, weights=str(path)))
    found = cut_model(recipe).client.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_weights_are_never_code_and_never_of_another_model(trial, tmp_path):
    class Code:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"a": Code()}, tmp_path / "code.pth")
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    for name, message in (
        ("code.pth", "cannot be read as a state dict"),
        ("other.pth", "the weights of another model"),
    ):
        model = msgspec.structs.replace(trial.model, weights=str(tmp_path / name))
        with pytest.raises(UserError, match=message):
            cut_model(msgspec.structs.replace(trial.recipe, model=model))


def test_lazy_modules_take_their_sizes_from_the_input(trial):
    model = msgspec.structs.replace(trial.model, factory=f"{__name__}:lazy", cut="0")
    assert cut_model(msgspec.structs.replace(trial.recipe, model=model)).client.get_parameter("0.weight").shape == (
        4,
        1,
        3,
        3,
    )


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(10))
