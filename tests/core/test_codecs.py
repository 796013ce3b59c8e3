"""What every codec must do, whatever it is."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cutlayer.codecs import Codec, Fp8, Fp16, Raw
from cutlayer.errors import CodecError

CODECS = [Raw(), Fp16(), Fp8("e4m3"), Fp8("e5m2")]
RELATIVE_ERROR = {Raw(): 0.0, Fp16(): 2**-11, Fp8("e4m3"): 2**-4, Fp8("e5m2"): 2**-3}
GOLDEN = np.array([[0.0, -0.0, 1.0, -1.5], [3.14159, -0.001, 100.0, 7e-5]], np.float32)
GOLDEN_BYTES = {  # from struct.pack and, for FP8, ml_dtypes after scaling by 4 and 512
    Raw(): "00000000000000800000803f0000c0bfd00f49406f1283ba0000c842f7cc9238",
    Fp16(): "00000080003c00be4842199440569604",
    Fp8("e4m3"): "008048cc55827c00",
    Fp8("e5m2"): "008060e266b87a29",
}
all_codecs = pytest.mark.parametrize("codec", CODECS, ids=str)
tensors = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=4, max_side=5), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
)


def test_every_codec_of_the_table_is_tested_here():
    assert {type(codec) for codec in CODECS} == set(get_args(Codec))


@all_codecs
@given(tensors)
def test_round_trip_keeps_shape_and_size_and_errs_by_no_more_than_half_a_unit(codec, tensor):
    encoded = codec.encode(tensor)
    assert 8 * len(encoded.payload) == codec.bits(tensor.shape)
    decoded = codec.decode(encoded.payload, encoded.params, tensor.shape)
    assert decoded.dtype == np.float32
    assert decoded.shape == tensor.shape
    peak = np.abs(tensor).max()
    floor = peak * 2**-17 if isinstance(codec, Fp8) else 1e-7  # where a format's subnormals begin
    limit = np.maximum(np.abs(tensor) * RELATIVE_ERROR[codec], floor if codec != Raw() else 0.0)
    assert (np.abs(decoded - tensor) <= limit).all()


@all_codecs
def test_a_strided_tensor_is_encoded_as_if_it_were_contiguous(codec):
    tensor = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    assert codec.encode(tensor) == codec.encode(np.ascontiguousarray(tensor))


@all_codecs
def test_golden_bytes(codec):
    encoded = codec.encode(GOLDEN)
    assert encoded.payload.hex() == GOLDEN_BYTES[codec]


@all_codecs
@given(st.binary(max_size=64), st.dictionaries(st.sampled_from(["exponent", "x"]), st.integers(), max_size=2))
def test_any_payload_gives_an_array_or_a_codec_error(codec, payload, params):
    for shape in [(1,), (4, 4), (len(payload),), (2**40, 2**40)]:
        try:
            assert codec.decode(payload, params, shape).shape == shape
        except CodecError:
            continue


@all_codecs
@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (0,), (-4,)])
def test_a_payload_of_another_length_is_refused_before_it_is_decoded(codec, shape):
    encoded = codec.encode(np.ones(4, np.float32))
    with pytest.raises(CodecError, match="does not fit"):
        codec.decode(encoded.payload, encoded.params, shape)


@all_codecs
def test_not_a_number_stays_not_a_number(codec):
    tensor = np.array([1.0, np.nan, -2.0], np.float32)
    encoded = codec.encode(tensor)
    decoded = codec.decode(encoded.payload, encoded.params, tensor.shape)
    np.testing.assert_array_equal(decoded, tensor)
