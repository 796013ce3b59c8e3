import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer_core.codecs.radix import MAX_RADIX, pack_digits, packed_bits, unpack_digits


@given(st.integers(1, MAX_RADIX), st.integers(0, 100), st.integers(0, 2**32 - 1))
def test_digits_come_back(radix, count, seed):
    digits = np.random.default_rng(seed).integers(0, radix, count).astype(np.uint16)
    bits = pack_digits(digits, radix)
    assert bits.size == packed_bits(radix, count)
    np.testing.assert_array_equal(unpack_digits(bits, radix, count), digits)


@pytest.mark.parametrize("radix", [2, 3, 5, 6, 7, 10, 100, 200, 256])
def test_nearly_nothing_is_lost_to_rounding_up(radix):
    ideal = 100_000 * math.log2(radix)
    assert ideal <= packed_bits(radix, 100_000) < 1.005 * ideal


def test_no_radix_up_to_256_loses_more_than_two_percent():
    losses = [packed_bits(radix, 100_000) / (100_000 * math.log2(radix)) - 1 for radix in range(2, 257)]
    assert max(losses) < 0.02
    assert sum(losses) / len(losses) < 0.004


@given(st.binary(min_size=8, max_size=60), st.integers(2, 300))
def test_any_bits_give_digits_below_the_radix(data, radix):
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    count = next(count for count in range(bits.size, -1, -1) if packed_bits(radix, count) <= bits.size)
    assert (unpack_digits(bits[: packed_bits(radix, count)], radix, count) < radix).all()
