import numpy as np
import pytest

from cutlayer.bundle import read_bundle
from cutlayer.errors import UserError
from cutlayer_device.engines import ENGINES, OnnxEngine, load_engine

RNG = np.random.default_rng(0)


@pytest.fixture
def engine(digits):
    return load_engine(read_bundle(digits / "client.bundle"), threads=1)


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
    monkeypatch.delitem(ENGINES, "onnx")
    with pytest.raises(UserError, match="needs the engine 'onnx'"):
        load_engine(read_bundle(digits / "client.bundle"), 0)


def test_every_engine_of_the_table_is_one():
    assert {"onnx": OnnxEngine} == ENGINES
