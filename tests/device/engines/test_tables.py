"""A board that trains an embedding by rows has what torch has that trains the whole table."""

import msgspec
import numpy as np
import pytest
import torch

from cutlayer_core.bundles.bundle import Bundle, read_bundle
from cutlayer_core.engines import ENGINES
from cutlayer_core.errors import LocalProtocolError, UserError
from cutlayer_core.trial.optimizers import Adam, Sgd
from cutlayer_core.trial.recipe import Model, Recipe
from cutlayer_cut import build_model
from cutlayer_device.engines import load_engine
from cutlayer_export.export import export_bundle
from cutlayer_export.graph.form import Form

ROWS, SGD = 30, Sgd(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
MODEL = Model(
    factory="other_models:Reader", cut="between", input_shape=(5,), input_dtype="int64", input_range=(0, ROWS - 1)
)


@pytest.fixture(scope="module", params=ENGINES)
def path(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("tables") / "b.zip"
    recipe = Recipe(name="t", model=MODEL, optimizer=SGD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cutlayer_export.graph.tables._LEAST_ROWS", 0)  # tables of any size
        assert export_bundle(recipe, place, form=Form(request.param)).tables == ("embedding.weight",)
    return place


def batches(number):
    """Tokens, of which each batch has few; the last is the padding, whose row never changes by a gradient."""
    random = np.random.default_rng(1)
    for _ in range(number):
        low = int(random.integers(0, ROWS - 6))
        x = random.integers(low, low + 6, (4, 5))
        yield np.where(random.random((4, 5)) < 0.2, 0, x), random.standard_normal((4, 5, 8)).astype(np.float32)


def rate_of(step):
    return 0.1 / (1 + step % 3)


def torchs_weights(steps):
    model = build_model(MODEL, Recipe(name="t", model=MODEL, optimizer=SGD).seed).double()
    client = torch.nn.Sequential(model.embedding, model.between)
    sgd = torch.optim.SGD(client.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    for step, (x, g) in enumerate(batches(steps)):
        sgd.param_groups[0]["lr"] = rate_of(step)
        sgd.zero_grad()
        client(torch.from_numpy(x)).backward(torch.from_numpy(g).double())
        sgd.step()
    names = ("embedding.weight", "between.weight", "between.bias")
    return dict(zip(names, (each.detach().numpy() for each in client.parameters()), strict=True))


def trained(engine, first, last):
    for step, (x, g) in enumerate(batches(last)):
        if step >= first:
            engine.forward(x)
            engine.infer(np.full((1, 5), step % ROWS))  # other rows than the step's
            engine.backward(g, rate_of(step))
    return engine


def test_a_table_trains_by_rows_as_torch_trains_the_whole(path):
    found = trained(load_engine(read_bundle(path), 1), 0, 25).weights()
    for name, wanted in torchs_weights(25).items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=2e-5)


def test_inference_sees_rows_that_were_late(path):
    engine = trained(load_engine(read_bundle(path), 1), 0, 25)
    weights, tokens = torchs_weights(25), np.arange(ROWS).reshape(6, 5)
    wanted = weights["embedding.weight"][tokens] @ weights["between.weight"].T + weights["between.bias"]
    np.testing.assert_allclose(engine.infer(tokens), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_a_state_that_is_restored_goes_on_as_if_nothing_had_happened(path):
    bundle = read_bundle(path)
    engine = trained(load_engine(bundle, 1), 0, 10)
    state = engine.state()
    other = load_engine(bundle, 1)
    other.restore(state)
    wanted = trained(engine, 10, 25).weights()
    for name, value in trained(other, 10, 25).weights().items():
        np.testing.assert_array_equal(value, wanted[name])


def test_weights_that_are_loaded_count_from_then_on(path):
    engine = trained(load_engine(read_bundle(path), 1), 0, 5)
    others = {name: value + 1 for name, value in engine.weights().items()}
    engine.load(others)
    for name, value in engine.weights().items():
        np.testing.assert_array_equal(value, others[name])


def test_a_batch_of_other_weights_cannot_go_backward(path):
    engine = load_engine(read_bundle(path), 1)
    x, g = next(batches(1))
    engine.forward(x)
    engine.load(engine.weights())
    with pytest.raises(LocalProtocolError):
        engine.backward(g, 0.1)


@pytest.mark.parametrize("token", [-1, ROWS])
def test_a_token_without_a_row_is_refused(path, token):
    with pytest.raises(UserError, match=rf"token outside of 0\.\.{ROWS - 1}"):
        load_engine(read_bundle(path), 1).forward(np.full((2, 5), token))


@pytest.mark.parametrize(
    "changes",
    [
        {"tables": ("embedding.other",)},
        {"optimizer": Adam(learning_rate=0.1)},
    ],
)
def test_a_manifest_that_names_what_cannot_be_a_table_is_refused(path, changes):
    bundle = read_bundle(path)
    client = msgspec.structs.replace(
        bundle.manifest.client, optimizer=changes.get("optimizer", bundle.manifest.client.optimizer)
    )
    tables = changes.get("tables", bundle.manifest.tables)
    manifest = msgspec.structs.replace(bundle.manifest, client=client, tables=tables)
    with pytest.raises(UserError, match="names a table that it does not train by SGD"):
        load_engine(Bundle(manifest, bundle._files, bundle.certificate), 1)
