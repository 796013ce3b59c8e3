"""FP8 against implementations that are not ours, bit for bit."""

import ml_dtypes
import numpy as np
import pytest

from cutlayer_core.codecs.fp8 import _LAYOUTS, Fp8, _cast, _decoding_table, _encoding_table
from cutlayer_core.errors import CodecError

FORMATS = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
both = pytest.mark.parametrize("name", FORMATS)
ALL_CODES = np.arange(256, dtype=np.uint8)


def cast(x, name):
    """Codes of a plain cast: exponent 0."""
    return _cast(x.view(np.uint32), _encoding_table(name, 0))


def sample(name):
    """Float32 bit patterns: random ones, every upper half, and every rounding boundary with its neighbours."""
    generator = np.random.default_rng(0)
    random = generator.integers(0, 2**32, 1_000_000, dtype=np.uint32)
    halves = np.arange(2**16, dtype=np.uint32) << 16
    values = np.unique(ALL_CODES.view(FORMATS[name]).astype(np.float32))
    values = values[np.isfinite(values)]
    midpoints = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    edges = np.concatenate([values, midpoints, [464.0, 480.0, 61440.0, 65536.0]]).astype(np.float32).view(np.uint32)
    patterns = [random, *(each + np.uint32(shift) for each in (halves, edges) for shift in (0, 1, 2**32 - 1))]
    return np.concatenate(patterns).view(np.float32)


@both
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_codes_equal_those_of_ml_dtypes(name):
    x = sample(name)
    np.testing.assert_array_equal(cast(x, name), x.astype(FORMATS[name]).view(np.uint8))


@both
def test_codes_equal_those_of_torch(name):
    """Where torch and ml_dtypes differ we go with ml_dtypes: torch clamps what overflows E4M3, and its E5M2 NaN is 0x7f."""
    torch = pytest.importorskip("torch")
    x = sample(name)
    ours = cast(x, name)
    dtype = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}[name]
    theirs = torch.from_numpy(x).to(dtype).view(torch.uint8).numpy()
    settled = ~np.isnan(x)
    if name == "e4m3":
        settled &= np.abs(x) <= 464.0  # halfway from the largest finite value to what would come next
    assert settled.mean() > 0.4
    np.testing.assert_array_equal(ours[settled], theirs[settled])
    assert np.isnan(_decoding_table(name, 0)[ours[np.isnan(x)]]).all()


@both
def test_all_256_values_equal_those_of_ml_dtypes_and_torch(name):
    torch = pytest.importorskip("torch")
    ours = _decoding_table(name, 0)
    np.testing.assert_array_equal(ours, ALL_CODES.view(FORMATS[name]).astype(np.float32))
    dtype = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}[name]
    np.testing.assert_array_equal(ours, torch.from_numpy(ALL_CODES).view(dtype).float().numpy())
    assert np.signbit(ours[128])
    assert not np.signbit(ours[0])


@both
def test_every_finite_code_survives_a_round_trip(name):
    values = _decoding_table(name, 0)
    codes = ALL_CODES[np.isfinite(values)]
    np.testing.assert_array_equal(cast(values[codes], name), codes)


@both
@pytest.mark.parametrize("scale", [1e-30, 2.0**-20, 1.0, 3.0, 448.0, 449.0, 57344.0, 1e30, 3.4e38])
def test_the_exponent_is_the_least_that_fits(name, scale):
    codec, largest = Fp8(name), _LAYOUTS[name].largest
    tensor = np.array([-scale, scale / 3], np.float32)
    exponent = codec.encode(tensor).params["exponent"]
    assert np.abs(tensor).max() / 2.0**exponent <= largest
    assert exponent == -128 or np.abs(tensor).max() / 2.0 ** (exponent - 1) > largest


@both
def test_a_tensor_of_zeros_has_exponent_0(name):
    assert Fp8(name).encode(np.zeros((2, 3), np.float32)).params == {"exponent": 0}


@both
def test_infinity_does_not_spoil_the_scale_of_the_rest(name):
    tensor = np.array([np.inf, 1.0, -2.0], np.float32)
    encoded = Fp8(name).encode(tensor)
    decoded = Fp8(name).decode(encoded.payload, encoded.params, tensor.shape)
    assert not np.isfinite(decoded[0])
    np.testing.assert_array_equal(decoded[1:], tensor[1:])


@both
def test_the_largest_float32_stays_finite(name):
    tensor = np.array([np.finfo(np.float32).max, 0.0], np.float32)
    encoded = Fp8(name).encode(tensor)
    assert np.isfinite(Fp8(name).decode(encoded.payload, encoded.params, (2,))).all()


@pytest.mark.parametrize("exponent", [-129, 128, None, 1.5, True])
def test_an_exponent_beyond_int8_is_refused(exponent):
    with pytest.raises(CodecError, match="exponent"):
        Fp8().decode(b"\0", {"exponent": exponent}, (1,))
