import numpy as np

from cutlayer_server.model.averaging import average


def test_the_mean_is_weighted_by_samples():
    weights = {"a": {"w": np.array([1.0, 2.0], np.float32)}, "b": {"w": np.array([4.0, 8.0], np.float32)}}
    mean = average(weights, {"a": 2, "b": 1})["w"]
    np.testing.assert_allclose(mean, [2.0, 4.0])
    assert mean.dtype == np.float32


def test_counts_take_the_greatest():
    weights = {"a": {"n": np.array(3)}, "b": {"n": np.array(5)}}
    assert average(weights, {"a": 1, "b": 1})["n"] == 5


def test_one_device_keeps_its_weights_to_the_bit():
    w = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    np.testing.assert_array_equal(average({"a": {"w": w}}, {"a": 7})["w"], w)


def test_equal_weights_are_their_own_mean_to_the_bit():
    """Also where they are copies, as after a restart."""
    w = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    copies = {name: {"w": w.copy()} for name in "abc"}
    np.testing.assert_array_equal(average(copies, {"a": 719, "b": 718, "c": 33})["w"], w)
