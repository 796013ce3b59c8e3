"""A bundle may hold several arrangements of its training graphs; each trains as torch does, and a board takes any."""

import msgspec
import numpy as np
import pytest

from clients import SGD
from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.trial.recipe import Model, Recipe
from cutlayer_device.engines import load_engine
from cutlayer_export.errors import CertificateError
from cutlayer_export.export import export_bundle
from cutlayer_export.graph.form import Form

RECIPE = Recipe(
    name="t", model=Model(factory="other_models:convolutions", cut="3", input_shape=(3, 8, 8)), optimizer=SGD
)


def trained(bundle, steps=3):
    engine, random = load_engine(bundle, 1), np.random.default_rng(0)
    for _ in range(steps):
        engine.forward(random.standard_normal((5, 3, 8, 8)).astype(np.float32))
        engine.backward(0.1 * random.standard_normal((5, 32, 8, 8)).astype(np.float32), 0.05)
    return engine.weights()


@pytest.mark.parametrize("engine", ["onnx", "tflite"])
def test_every_arrangement_is_certified_and_trains_to_the_same(tmp_path, engine):
    manifest = export_bundle(RECIPE, tmp_path / "b.zip", form=Form(engine, arrangements=True))
    bundle = read_bundle(tmp_path / "b.zip")
    bundle.require_training()
    assert manifest.arrangements
    assert bundle.certificate.arrangements.keys() == set(manifest.arrangements)
    assert all(0 < error < 1e-4 for error in bundle.certificate.arrangements.values())
    wanted = trained(bundle)
    for name in manifest.arrangements:
        other = bundle.arranged(name)
        assert other.graph("backward") != bundle.graph("backward")
        for key, value in trained(other).items():
            np.testing.assert_allclose(value, wanted[key], rtol=1e-3, atol=1e-5)


def test_nothing_more_is_written_where_there_is_one_way_only(tmp_path):
    small = msgspec.structs.replace(
        RECIPE, model=Model(factory="cutlayer_cut.zoo.digits:DigitsNet", cut="stem.0", input_shape=(1, 8, 8))
    )
    assert export_bundle(small, tmp_path / "b", form=Form(arrangements=True)).arrangements == ()
    assert not list((tmp_path / "b").glob("*@*"))


@pytest.mark.parametrize("asked", [False, True])
def test_an_arrangement_that_does_not_train_as_torch_is_left_out_and_said_to_be(tmp_path, asked):
    dark = msgspec.structs.replace(RECIPE, model=Model(factory="other_models:dark", cut="3", input_shape=(3, 8, 8)))
    manifest = export_bundle(dark, tmp_path / "b.zip", form=Form(arrangements=asked))
    certificate = read_bundle(tmp_path / "b.zip").certificate
    assert certificate.valid
    assert manifest.arrangements == ()
    assert "differs from torch" in certificate.left_out["winograd"]


def test_a_client_that_is_wrong_in_every_arrangement_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cutlayer_export.certificate.comparison.TOLERANCE", 0.0)
    with pytest.raises(CertificateError, match="differs from torch"):
        export_bundle(RECIPE, tmp_path / "b.zip")
