import numpy as np
import pytest

from cutlayer_core.codecs import TopK
from cutlayer_core.errors import CodecError

BATCH = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 1.0])
def test_the_greatest_magnitudes_of_each_sample_travel(share):
    codec = TopK(share, 32)
    encoded = codec.encode(BATCH)
    decoded = codec.decode(encoded.payload, {}, BATCH.shape)
    kept = max(1, round(share * 40))
    for row, found in zip(BATCH, decoded, strict=True):
        greatest = set(np.argsort(-np.abs(row))[:kept])
        assert set(np.flatnonzero(found)) == greatest
        assert all(found[place] == row[place] for place in greatest)


def test_of_equal_ones_the_first_travel():
    tensor = np.ones((2, 10), np.float32)
    encoded = TopK(0.3).encode(tensor)
    np.testing.assert_array_equal(np.nonzero(TopK(0.3).decode(encoded.payload, {}, (2, 10)))[1], [0, 1, 2, 0, 1, 2])


def test_the_gradient_returns_at_the_same_places_only():
    codec, gradient = TopK(0.1, 32), np.arange(200, dtype=np.float32).reshape(5, 40) + 1
    encoded = codec.encode(BATCH)
    corrected = codec.correct(codec.select(gradient, encoded.payload, BATCH.shape), BATCH.shape, encoded.context)
    sent = codec.decode(encoded.payload, {}, BATCH.shape) != 0
    np.testing.assert_array_equal(corrected, np.where(sent, gradient, 0))


def test_places_are_numbers_or_a_bitmap_whichever_is_shorter():
    few, many = TopK(0.05), TopK(0.5)
    assert few.bits((1, 40)) == 8 * (2 + 2 * 2)  # two places of 6 bits, two values of 2 bytes
    assert many.bits((1, 40)) == 8 * (5 + 20 * 2)  # 40 bits


@pytest.mark.parametrize(("share", "places"), [(0.05, b"\xff\xff"), (0.5, b"\xff\xff\xff\xff\xff")])
def test_places_that_cannot_be_are_refused(share, places):
    codec = TopK(share)
    payload = places.ljust(codec.bits((1, 40)) // 8, b"\0")
    with pytest.raises(CodecError, match="top-k"):
        codec.decode(payload, {}, (1, 40))
