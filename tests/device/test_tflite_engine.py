"""What only the TFLite engine could get wrong: weights that stand in a file."""

import numpy as np
import pytest
from safetensors.numpy import save
from torch import nn

from clients import IMAGE, SGD, described, graphs_of
from cutlayer.bundle import FORMAT_VERSION, Bundle, Certificate, Manifest
from cutlayer_device.engines import load_engine
from cutlayer_export.writers import Form

NET = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)]


@pytest.fixture(scope="module")
def engines():
    """New engines of the same client, by form."""
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
        bundles[f"{engine} {target}"] = Bundle(manifest, files, certificate)
    return lambda: {name: load_engine(bundle, 1) for name, bundle in bundles.items()}


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


def test_smashed_data_and_weights_stay_where_they_are_from_step_to_step(engines):
    x = np.random.default_rng(3).standard_normal((4, 3, 8, 8), np.float32)
    for name, engine in engines().items():
        z = engine.forward(x, 0)
        kept = engine.state()
        engine.backward(z.copy(), 0.1)
        again = engine.forward(x, 0)
        assert np.shares_memory(z, again), name
        assert any((value != engine.state().arrays[key]).any() for key, value in kept.arrays.items())
