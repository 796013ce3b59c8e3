import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer_core.codecs.bitpack import pack, packed_bytes, unpack


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=40))
def test_numbers_come_back(width, numbers):
    array = np.array(numbers, np.uint8) & (2**width - 1)
    packed = pack(array, width)
    assert packed.size == packed_bytes(width, array.size)
    np.testing.assert_array_equal(unpack(packed, width, array.size), array)


@pytest.mark.parametrize("width", range(1, 9))
def test_the_first_number_is_in_the_lowest_bits(width):
    """Against Python's own big integers."""
    numbers = np.random.default_rng(width).integers(0, 2**width, 19).astype(np.uint8)
    whole = sum(int(number) << (place * width) for place, number in enumerate(numbers))
    assert pack(numbers, width).tobytes() == whole.to_bytes(packed_bytes(width, 19), "little")
