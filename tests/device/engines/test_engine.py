import contextlib
from importlib.metadata import version

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer_core.bundles.bundle import read_bundle, write_bundle
from cutlayer_core.engines import ENGINES
from cutlayer_core.errors import LocalProtocolError, UserError
from cutlayer_device.engines import load_engine
from cutlayer_device.engines.onnx_file import require_self_contained

RNG = np.random.default_rng(0)


@pytest.fixture(params=["onnx", "xnnpack", "generic"])
def bundle(bundles, request):
    return read_bundle(bundles[request.param])


@pytest.fixture
def engine(bundle):
    return load_engine(bundle, threads=1)


def batch(size):
    x = RNG.standard_normal((size, 1, 8, 8)).astype(np.float32)
    return x, RNG.standard_normal((size, 16, 4, 4)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 32, 33])
def test_any_batch_size_is_taken(engine, size):
    x, g = batch(size)
    assert engine.forward(x).shape == (size, 16, 4, 4)
    engine.backward(g, 0.1)


def test_backward_changes_the_parameters_and_a_rate_of_zero_does_not(engine):
    x, g = batch(8)
    before = engine.weights()
    engine.forward(x)
    engine.backward(g, 0.0)
    assert all((engine.weights()[name] == value).all() for name, value in before.items())
    engine.forward(x)
    engine.backward(g, 0.1)
    assert all((engine.weights()[name] != value).any() for name, value in before.items())


def test_loaded_weights_are_used_and_the_momentum_stays(engine):
    x, g = batch(8)
    before = engine.weights()
    z = engine.forward(x).copy()
    engine.backward(g, 0.1)
    engine.load(before)
    np.testing.assert_array_equal(engine.forward(x), z)
    engine.backward(g, 0.1)
    first_step = {name: value - before[name] for name, value in engine.weights().items()}
    engine.load(before)
    engine.forward(x)
    engine.backward(g, 0.1)
    second_step = {name: value - before[name] for name, value in engine.weights().items()}
    assert all(np.abs(second_step[name]).max() > np.abs(first_step[name]).max() for name in before)


def test_weights_are_copies(engine):
    x, _ = batch(2)
    z = engine.forward(x).copy()
    for value in engine.weights().values():
        value[...] = 0
    np.testing.assert_array_equal(engine.forward(x), z)


def test_a_strided_batch_is_taken_as_it_looks(engine):
    x, _ = batch(4)
    strided = np.asfortranarray(x)
    np.testing.assert_array_equal(engine.forward(strided).copy(), engine.forward(x))


def test_an_engine_that_is_not_there_is_named(digits, monkeypatch):
    without = {name: needs for name, needs in ENGINES.items() if name != "onnx"}
    monkeypatch.setattr("cutlayer_core.engines.ENGINES", without)
    with pytest.raises(UserError, match=r"client\.bundle: found the engine 'onnx', allowed: tflite"):
        load_engine(read_bundle(digits / "client.bundle"), 0)


def test_an_engine_says_what_executes_its_graphs(bundles):
    said = {name: load_engine(read_bundle(path), threads=1).runtime for name, path in bundles.items()}
    assert said["onnx"] == f"onnxruntime {version('onnxruntime')}"
    assert said["xnnpack"] == said["generic"] == f"ai-edge-litert {version('ai-edge-litert')}"


def test_all_engines_train_alike(bundles):
    engines = [load_engine(read_bundle(path), threads=1) for path in bundles.values()]
    for size in (8, 8, 5):
        x, g = batch(size)
        for engine in engines:
            engine.forward(x, 0)
            engine.backward(g, 0.1)
    first, *others = (engine.state().arrays for engine in engines)
    for other in others:
        for name, value in first.items():
            np.testing.assert_allclose(other[name], value, rtol=0, atol=1e-5 * np.abs(value).max())


def edited(path, tmp_path, change):
    """The bundle with its graphs changed, hashes and all."""
    bundle = read_bundle(path)
    files = {name: (path / name).read_bytes() for name in bundle.manifest.files}
    files = {
        name: change(content) if name.endswith((".onnx", ".tflite")) else content for name, content in files.items()
    }
    write_bundle(tmp_path / "edited", bundle.manifest, files)
    return read_bundle(tmp_path / "edited")


def outside(content):
    model = onnx.load_from_string(content)
    tensor = model.graph.initializer.add(name="secret", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return model.SerializeToString()


def outside_a_node(content):
    model = onnx.load_from_string(content)
    tensor = onnx.TensorProto(data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["secret"], value=tensor))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (outside, "data are in another file"),
        (outside_a_node, "data are in another file"),
        (lambda content: content[:-7], "no ONNX file|does not take a graph"),
        (lambda content: b"hello", "no ONNX file"),
        (lambda content: b"", "does not take a graph"),
        (lambda content: content.replace(b"Conv", b"Evil"), "does not take a graph"),
    ],
)
def test_a_graph_that_is_hostile_or_damaged_is_refused(digits, tmp_path, change, message):
    engine = load_engine(edited(digits / "client.bundle", tmp_path, change), threads=1)
    with pytest.raises(UserError, match=message) as caught:
        engine.infer(batch(2)[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["xnnpack", "generic"])
@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-7],
        lambda content: content[: len(content) // 2],
        lambda content: b"hello",
        lambda content: b"",
        lambda content: content.replace(b"TFL3", b"TFL9"),
        lambda content: content[:4] + bytes(64) + content[68:],
    ],
)
def test_a_tflite_graph_that_is_damaged_is_refused(bundles, tmp_path, name, change):
    engine = load_engine(edited(bundles[name], tmp_path, change), threads=1)
    with pytest.raises(UserError, match="does not run a graph of the bundle, export it again") as caught:
        engine.infer(batch(2)[0])
    assert "\n" not in str(caught.value)


def test_the_files_of_an_export_are_self_contained(digits):
    for file in (digits / "client.bundle").glob("*.onnx"):
        require_self_contained(file.read_bytes())


@settings(max_examples=200, deadline=1000)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused_or_walked_through(content):
    with contextlib.suppress(UserError):
        require_self_contained(content)


def test_a_state_is_restored_to_the_last_bit(bundle):
    first, second = (load_engine(bundle, threads=1) for _ in range(2))
    batches = [batch(size) for size in (8, 5, 8, 3)]
    for x, g in batches[:2]:
        first.forward(x, 1)
        first.backward(g, 0.1)
    second.restore(first.state())
    for x, g in batches[2:]:
        for engine in (first, second):
            engine.forward(x, 2)
            engine.backward(g, 0.1)
    for name, value in first.state().arrays.items():
        np.testing.assert_array_equal(second.state().arrays[name], value)
    assert first.state().steps == second.state().steps == 4


def test_smashed_data_of_alternating_batch_sizes_are_those_of_a_fresh_engine(bundle, engine):
    for size in (4, 2, 4, 7, 4):
        x, _ = batch(size)
        fresh = load_engine(bundle, threads=1)
        np.testing.assert_array_equal(engine.forward(x, 0), fresh.forward(x, 0))


def test_backward_is_refused_without_its_forward(engine):
    x, g = batch(4)
    with pytest.raises(LocalProtocolError, match="the gradient of the last forward, once"):
        engine.backward(g, 0.1)
    engine.forward(x, 0)
    with pytest.raises(LocalProtocolError, match="once"):
        engine.backward(g[:2], 0.1)
    engine.backward(g, 0.1)
    with pytest.raises(LocalProtocolError, match="once"):
        engine.backward(g, 0.1)


def test_a_restored_engine_wants_a_forward_of_its_own(engine):
    x, g = batch(4)
    before = engine.state()
    engine.forward(x, 0)
    engine.restore(before)
    with pytest.raises(LocalProtocolError, match="the gradient of the last forward, once"):
        engine.backward(g, 0.1)


def test_a_graph_that_is_not_what_the_manifest_says_is_refused(digits, tmp_path):
    def renamed(content):
        model = onnx.load_from_string(content)
        for node in model.graph.node:
            node.input[:] = ["other" if name == "x" else name for name in node.input]
        next(each for each in model.graph.input if each.name == "x").name = "other"
        return model.SerializeToString()

    engine = load_engine(edited(digits / "client.bundle", tmp_path, renamed), threads=1)
    with pytest.raises(UserError, match="wants 'other', which its manifest does not describe"):
        engine.infer(batch(2)[0])
