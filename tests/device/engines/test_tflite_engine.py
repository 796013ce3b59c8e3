"""What only the TFLite engine could get wrong: weights that stand in a file."""

import numpy as np
import pytest
from safetensors.numpy import save
from torch import nn

from clients import IMAGE, SGD, described, graphs_of
from cutlayer_core.bundles.bundle import FORMAT_VERSION, Bundle, Manifest
from cutlayer_core.bundles.certificate import Certificate
from cutlayer_core.errors import LocalProtocolError, UserError
from cutlayer_device.engines import load_engine, tflite, tflite_graph
from cutlayer_export.graph.form import Form
from cutlayer_export.tflite.file import to_file
from cutlayer_export.tflite.graph import Graph

NET = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)]


@pytest.fixture(autouse=True, params=[tflite._SMALL, 0], ids=["graphs stay loaded", "graphs are loaded for each step"])
def small(request, monkeypatch):
    monkeypatch.setattr(tflite, "_SMALL", request.param)
    return request.param


@pytest.fixture(scope="module")
def engines():
    """A function that gives new engines of the same client, by form; some files may be others."""
    module = nn.Sequential(*NET)
    client, _, values = described(module, IMAGE, SGD)
    bundles = {}
    for engine, target in (("onnx", "xnnpack"), ("tflite", "xnnpack"), ("tflite", "generic")):
        written = graphs_of(module, IMAGE, SGD, form=Form(engine, target))
        files = {f"{name}.{engine}": content for name, content in written.files.items()}
        files["params.safetensors"] = save({name: value.numpy() for name, value in values.items()})
        manifest = Manifest(
            format_version=FORMAT_VERSION, trial="t", client=client, engine=engine, opset=1, versions={}, files={}
        )
        certificate = Certificate(steps=1, batch_sizes=(1,), errors={})
        bundles[f"{engine} {target}"] = (manifest, files, certificate)

    def load(others=None):
        return {
            name: load_engine(Bundle(manifest, files | (others or {}), certificate), 1)
            for name, (manifest, files, certificate) in bundles.items()
        }

    return load


def test_inference_uses_the_statistics_of_the_last_forward(engines):
    random = np.random.default_rng(0)
    x = (5 + 3 * random.standard_normal((6, 3, 8, 8))).astype(np.float32)
    found = []
    for engine in engines().values():
        engine.infer(x)
        engine.forward(x, 0)
        found.append(engine.infer(x))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-5 * np.abs(found[0]).max())


def test_inference_between_forward_and_backward_changes_nothing(engines):
    random = np.random.default_rng(1)
    x, g = random.standard_normal((4, 3, 8, 8), np.float32), random.standard_normal((4, 2, 6, 6), np.float32)
    for first, second in zip(engines().values(), engines().values(), strict=True):
        for engine in (first, second):
            for _ in range(2):
                engine.forward(x, 0)
                if engine is second:
                    engine.infer(x[:1])
                engine.backward(g, 0.1)
        for name, value in first.weights().items():
            np.testing.assert_array_equal(second.weights()[name], value)


def test_graphs_of_a_small_client_are_loaded_once(engines, small, monkeypatch):
    loaded, interpreter = [], tflite_graph.runtime.Interpreter
    monkeypatch.setattr(
        tflite_graph.runtime, "Interpreter", lambda **options: loaded.append(options) or interpreter(**options)
    )
    engine, x = engines()["tflite generic"], np.ones((2, 3, 8, 8), np.float32)
    for _ in range(2):
        engine.backward(engine.forward(x), 0.1)
    before = len(loaded)
    engine.backward(engine.forward(x), 0.1)
    assert len(loaded) - before == (0 if small else 2)


def test_batches_may_change_their_size(engines):
    random = np.random.default_rng(2)
    batches = [random.standard_normal((size, 3, 8, 8), np.float32) for size in (4, 2, 4)]
    found = []
    for engine in engines().values():
        for x in batches:
            engine.backward(1e-2 * engine.forward(x, 0), 0.1)
        found.append(engine.weights())
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_allclose(other[name], value, rtol=0, atol=1e-5 * np.abs(value).max())


def test_smashed_data_stay_where_they_are_from_step_to_step(engines):
    x = np.random.default_rng(3).standard_normal((4, 3, 8, 8), np.float32)
    for name, engine in engines().items():
        z = engine.forward(x, 0)
        engine.backward(z.copy(), 0.1)
        assert np.shares_memory(z, engine.forward(x, 0)), name


def test_after_a_forward_that_was_refused_there_is_nothing_to_go_back_from(engines):
    x = np.zeros((4, 3, 8, 8), np.float32)
    for engine in engines().values():
        z = engine.forward(x, 0)
        with pytest.raises(UserError):
            engine.forward(x[:2, :2], 0)
        with pytest.raises(LocalProtocolError):
            engine.backward(np.zeros_like(z), 0.1)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("9" * 5000, "names no place for the weights"),
        ("-1", "names no place"),
        ("x", "names no place"),
        ("999999999", "does not have"),
    ],
)
def test_weights_for_a_place_that_is_none_are_refused(place, message, engines):
    graph = Graph(delegated=True)
    made = graph.plus(graph.input("params.0.bias", (4,), "float32"), graph.constant(0.0))
    made.name, graph.outputs[place] = place, made
    engine = engines({"forward-filters.tflite": to_file(graph, "filters").content})["tflite xnnpack"]
    with pytest.raises(UserError, match=message):
        engine.forward(np.zeros((4, 3, 8, 8), np.float32), 0)


@pytest.mark.parametrize(("shape", "dtype"), [((2, 2), "float32"), ((4,), "int32")])
def test_news_that_are_not_as_described_are_refused(shape, dtype, engines):
    graph = Graph(delegated=True)
    bias = graph.input("params.0.bias", (4,), "float32")
    made = graph.cast(graph.reshape(graph.plus(bias, bias), shape), dtype)
    made.name, graph.outputs["new_params.0.bias"] = "new_params.0.bias", made
    engine = engines({"backward.tflite": to_file(graph, "backward").content})["tflite generic"]
    z = engine.forward(np.zeros((4, 3, 8, 8), np.float32), 0)
    with pytest.raises(UserError, match=r"gives no 'new_params\.0\.bias' as its manifest describes it"):
        engine.backward(np.zeros_like(z), 0.1)
