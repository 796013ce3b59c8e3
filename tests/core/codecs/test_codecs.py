"""What every codec must do, whatever it is."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cutlayer_core.codecs import Codec, Fp8, Fp16, Fwq, IntQ, ProductQuantizer, Raw, SplitFC, TopK
from cutlayer_core.errors import CodecError

CODECS = [
    Raw(), Fp16(), Fp8("e4m3"), Fp8("e5m2"), Fp8("e4m3", "search"), IntQ(), IntQ(3, "symmetric", "channel"),
    IntQ(1, rounding="stochastic"), TopK(0.3), TopK(0.02, 32), ProductQuantizer(1, 3), Fwq(2.0), Fwq(0.1),
    SplitFC(3.0, 1.5), SplitFC(0.1, 4.0),
]  # fmt: skip
FLOATS = [Raw(), Fp16(), Fp8("e4m3"), Fp8("e5m2")]
RELATIVE_ERROR = {Raw(): 0.0, Fp16(): 2**-11, Fp8("e4m3"): 2**-4, Fp8("e5m2"): 2**-3}
GOLDEN = np.array([[0.0, -0.0, 1.0, -1.5], [3.14159, -0.001, 100.0, 7e-5]], np.float32)
GOLDEN_BYTES = {  # from struct.pack and, for FP8, ml_dtypes after scaling by 4 and 512
    Raw(): "00000000000000800000803f0000c0bfd00f49406f1283ba0000c842f7cc9238",
    Fp16(): "00000080003c00be4842199440569604",
    Fp8("e4m3"): "008048cc55827c00",
    Fp8("e5m2"): "008060e266b87a29",
}
few = settings(max_examples=25)  # of each codec
all_codecs = pytest.mark.parametrize("codec", CODECS, ids=str)
floats = pytest.mark.parametrize("codec", FLOATS, ids=str)
tensors = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=4, max_side=5), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
)


def test_every_codec_of_the_table_is_tested_here():
    assert {type(codec) for codec in CODECS} == set(get_args(Codec))


@all_codecs
@few
@given(tensor=tensors, seed=st.integers(0, 2**31 - 1))
def test_a_round_trip_keeps_shape_type_and_announced_size(codec, tensor, seed):
    encoded = codec.encode(tensor, seed)
    assert 8 * len(encoded.payload) == codec.bits(tensor.shape)
    decoded = codec.decode(encoded.payload, encoded.params, tensor.shape)
    assert decoded.dtype == np.float32
    assert decoded.shape == tensor.shape
    assert np.isfinite(decoded).all()


@all_codecs
def test_a_codec_says_whether_the_seed_decides_anything(codec):
    tensor = np.random.default_rng(0).standard_normal((8, 96)).astype(np.float32)
    payloads = {bytes(codec.encode(tensor, seed).payload) for seed in range(8)}
    assert (len(payloads) > 1) == codec.draws


@floats
@given(tensors)
def test_formats_of_floats_err_by_no_more_than_half_a_unit(codec, tensor):
    encoded = codec.encode(tensor)
    decoded = codec.decode(encoded.payload, encoded.params, tensor.shape)
    peak = np.abs(tensor).max()
    floor = peak * 2**-17 if isinstance(codec, Fp8) else 1e-7  # where a format's subnormals begin
    limit = np.maximum(np.abs(tensor) * RELATIVE_ERROR[codec], floor if codec != Raw() else 0.0)
    assert (np.abs(decoded - tensor) <= limit).all()


@all_codecs
@few
@given(tensor=tensors, seed=st.integers(0, 2**31 - 1))
def test_equal_seeds_give_equal_payloads_whatever_the_strides(codec, tensor, seed):
    strided = np.asfortranarray(tensor)
    first, second = codec.encode(tensor, seed), codec.encode(strided, seed)
    assert bytes(first.payload) == bytes(second.payload)
    assert first.params == second.params


@all_codecs
@few
@given(tensor=tensors, data=st.data())
def test_the_gradient_comes_back_in_the_shape_of_the_tensor(codec, tensor, data):
    """Where all that was kept travels back unchanged, the client has the gradient at those places, scaled or not."""
    gradient = data.draw(hnp.arrays(np.float32, tensor.shape, elements=st.floats(-1, 1, width=32)))
    encoded = codec.encode(tensor)
    part = codec.select(gradient, encoded.payload, tensor.shape)
    assert part.shape == codec.part_shape(tensor.shape)
    corrected = codec.correct(part, tensor.shape, encoded.context)
    assert corrected.shape == tensor.shape
    assert corrected.dtype == np.float32
    kept = corrected != 0
    assert (np.sign(corrected[kept]) == np.sign(gradient[kept])).all()


@floats
def test_golden_bytes(codec):
    assert codec.encode(GOLDEN).payload.hex() == GOLDEN_BYTES[codec]


@all_codecs
@few
@given(
    payload=st.binary(max_size=64),
    params=st.dictionaries(st.sampled_from(["exponent", "x"]), st.integers(), max_size=2),
)
def test_any_payload_gives_an_array_or_a_codec_error(codec, payload, params):
    for shape in [(1,), (4, 4), (max(1, len(payload)),), (2**40, 2**40), (2, 3, 4, 5)]:
        try:
            assert codec.decode(payload, params, shape).shape == shape
        except CodecError:
            continue


@all_codecs
@few
@given(data=st.data(), tensor=tensors)
def test_any_payload_of_the_right_length_gives_an_array_or_a_codec_error(codec, data, tensor):
    size = codec.bits(tensor.shape) // 8
    genuine = bytearray(codec.encode(tensor).payload)
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, 255)), max_size=8)):
        genuine[place] = byte
    for payload in (bytes(genuine), data.draw(st.binary(min_size=size, max_size=size))):
        try:
            assert codec.decode(payload, {"exponent": 0}, tensor.shape).shape == tensor.shape
        except CodecError:
            continue


@all_codecs
@pytest.mark.parametrize("shape", [(), (99,), (2, 20, 2), (0,), (-4,), (0, 5)])
def test_a_payload_of_another_length_is_refused_before_it_is_decoded(codec, shape):
    encoded = codec.encode(np.ones((30, 70), np.float32))
    with pytest.raises(CodecError, match="does not fit"):
        codec.decode(encoded.payload, encoded.params, shape)


@floats
def test_not_a_number_stays_not_a_number(codec):
    tensor = np.array([1.0, np.nan, -2.0], np.float32)
    encoded = codec.encode(tensor)
    decoded = codec.decode(encoded.payload, encoded.params, tensor.shape)
    np.testing.assert_array_equal(decoded, tensor)


@all_codecs
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_does_not_become_finite_unseen(codec, number):
    if number != number or not isinstance(codec, Fp16 | TopK):  # these two take the largest half-precision number
        tensor = np.ones((4, 6), np.float32)
        tensor[1] = number
        encoded = codec.encode(tensor)
        assert not np.isfinite(codec.decode(encoded.payload, encoded.params, tensor.shape)).all()
