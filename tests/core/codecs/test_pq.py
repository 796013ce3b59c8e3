import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer_core.codecs import Codec, ProductQuantizer
from cutlayer_core.codecs.kmeans import cluster, first_centroids

RANDOM = np.random.default_rng(0)
BATCH = np.maximum(RANDOM.standard_normal((20, 4, 6)), 0).astype(np.float32)


def decoded(codec, tensor, memory=None):
    encoded = codec.encode(tensor, memory=memory or {})
    return codec.decode(encoded.payload, {}, tensor.shape)


def error(codec, tensor, memory=None):
    return float(((decoded(codec, tensor, memory) - tensor) ** 2).sum())


@given(st.integers(1, 6), st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]), st.integers(0, 1000))
def test_as_many_clusters_as_points_are_lossless(samples, subvectors, seed):
    tensor = np.random.default_rng(seed).standard_normal((samples, 24)).astype(np.float32)
    codec = ProductQuantizer(subvectors, max(2, samples * subvectors))
    np.testing.assert_array_equal(decoded(codec, tensor), tensor)


def test_as_many_clusters_as_distinct_points_are_lossless():
    distinct = np.array([[1, 2], [3, 4], [-5, 6]], np.float32)
    tensor = distinct[RANDOM.integers(0, 3, (8, 5))].reshape(8, 10)
    np.testing.assert_array_equal(decoded(ProductQuantizer(5, 3), tensor), tensor)


def test_bits_are_those_of_the_paper():
    """phi (d / q) L R + B q log2 L, with a float of 32 bits."""
    codec = ProductQuantizer(subvectors=1152, clusters=2)
    assert codec.bits((20, 9216)) == 32 * 8 * 2 + 20 * 1152
    grouped = ProductQuantizer(subvectors=12, clusters=8, groups=3)
    assert grouped.bits((20, 24)) == 32 * 2 * 8 * 3 + 20 * 12 * 3


def test_the_490_times_of_the_paper_are_64_bit_floats_and_250_times_32_bit_ones():
    """FEMNIST's client: d = 9216, B = 20, q = 1152, L = 2, R = 1."""
    sent = ProductQuantizer(subvectors=1152, clusters=2).bits((20, 9216))
    indices = 20 * 1152
    assert round(64 * 20 * 9216 / (2 * (sent - indices) + indices), 1) == 490.2
    assert round(32 * 20 * 9216 / sent, 1) == 250.4


def test_groups_are_neighbouring_sub_vectors_of_all_samples():
    """Each group's values lie far from the other's, so centroids that mixed them would be far off."""
    tensor = np.concatenate([RANDOM.standard_normal((30, 8)), 1000 + RANDOM.standard_normal((30, 8))], axis=1)
    found = decoded(ProductQuantizer(4, 2, groups=2), tensor.astype(np.float32))
    assert np.abs(found[:, :8]).max() < 10
    assert np.abs(found[:, 8:] - 1000).max() < 10


def test_more_clusters_err_less():
    errors = [error(ProductQuantizer(12, clusters), BATCH) for clusters in (2, 4, 8, 16, 32)]
    assert errors == sorted(errors, reverse=True)


def test_a_warm_start_is_no_worse_than_ten_iterations_from_nothing():
    codec = ProductQuantizer(8, 6)
    memory = codec.encode(BATCH).memory
    later = BATCH + RANDOM.standard_normal(BATCH.shape).astype(np.float32) * 0.01
    assert error(codec, later, memory) <= 1.05 * error(codec, later)


def test_memory_of_another_shape_is_not_used():
    codec = ProductQuantizer(8, 6)
    memory = {"centroids": np.zeros((1, 5, 9), np.float32)}
    np.testing.assert_array_equal(decoded(codec, BATCH, memory), decoded(codec, BATCH))


def test_the_correction_is_lambda_times_what_quantization_took():
    codec, gradient = ProductQuantizer(8, 3, correction=0.25), RANDOM.standard_normal(BATCH.shape).astype(np.float32)
    encoded = codec.encode(BATCH)
    wanted = gradient + np.float32(0.25) * (BATCH - codec.decode(encoded.payload, {}, BATCH.shape))
    np.testing.assert_allclose(codec.correct(gradient, BATCH.shape, encoded.context), wanted, rtol=1e-6)


def test_without_correction_the_gradient_is_left_alone():
    codec, gradient = ProductQuantizer(8, 3), np.ones(BATCH.shape, np.float32)
    assert codec.correct(gradient, BATCH.shape, codec.encode(BATCH).context) is gradient


def test_subvectors_must_divide_a_sample():
    assert ProductQuantizer(7, 2).problem((20, 4, 6)) == "subvectors: found 7, allowed: divisors of 24"
    with pytest.raises(msgspec.ValidationError, match="groups 3 do not divide subvectors 8"):
        msgspec.convert({"id": "pq", "subvectors": 8, "clusters": 2, "groups": 3}, Codec)


def test_kmeans_finds_what_scikit_learn_finds():
    sklearn = pytest.importorskip("sklearn.cluster")
    points = np.concatenate([RANDOM.normal(center, 0.1, (50, 3)) for center in (0, 2, 5)]).astype(np.float32)
    centroids, labels = cluster(points[None], first_centroids(points[None], 3), 20)
    theirs = sklearn.KMeans(3, n_init=5, random_state=0).fit(points)
    ours = float(((centroids[0, labels[0]] - points) ** 2).sum())
    assert ours == pytest.approx(theirs.inertia_, rel=1e-4)


def test_kmeans_never_errs_more_than_where_it_began():
    points = RANDOM.standard_normal((3, 40, 2)).astype(np.float32)
    start = first_centroids(points, 5)
    errors = []
    for iterations in range(1, 8):
        centroids, labels = cluster(points, start, iterations)
        errors.append(float(((np.take_along_axis(centroids, labels[:, :, None], 1) - points) ** 2).sum()))
    assert errors == sorted(errors, reverse=True)


def test_a_cluster_without_points_begins_anew_where_the_error_is_greatest():
    points = np.array([[[0.0], [0.1], [0.2], [9.0]]], np.float32)
    centroids, _ = cluster(points, np.array([[[0.1], [-50.0]]], np.float32), 5)
    np.testing.assert_allclose(np.sort(centroids.ravel()), [0.1, 9.0], atol=1e-6)
