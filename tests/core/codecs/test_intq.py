import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cutlayer_core.codecs import Codec, IntQ

BATCH = np.random.default_rng(0).standard_normal((6, 5, 4, 3)).astype(np.float32)


def decoded(codec, tensor, seed=0):
    encoded = codec.encode(tensor, seed)
    return codec.decode(encoded.payload, encoded.params, tensor.shape)


@given(
    st.integers(1, 8), st.sampled_from(["affine", "symmetric"]), st.sampled_from(["tensor", "channel"]),
    hnp.arrays(np.float32, (3, 4, 2), elements=st.floats(-1e3, 1e3, width=32)),
)  # fmt: skip
def test_the_error_is_at_most_half_a_step(bits, span, per, tensor):
    if span == "symmetric" and bits == 1:
        return
    axes = (0, 2) if per == "channel" else None
    low, high = tensor.min(axes, keepdims=True), tensor.max(axes, keepdims=True)
    reach = 2 * np.maximum(high, -low) / (2**bits - 2) if span == "symmetric" else (high - low) / (2**bits - 1)
    error = np.abs(decoded(IntQ(bits, span, per), tensor) - tensor)
    assert (error <= reach * (0.5 + 1e-3) + 1e-6).all()


@pytest.mark.parametrize("span", ["affine", "symmetric"])
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_eight_bits_equal_torchs_quantize_per_tensor(span):
    torch = pytest.importorskip("torch")
    tensor = np.abs(BATCH) if span == "affine" else BATCH
    if span == "affine":
        tensor.flat[0] = 0.0
        scale, zero, dtype = tensor.max() / 255, 0, torch.quint8
    else:
        scale, zero, dtype = np.abs(tensor).max() / 127, 0, torch.qint8
    theirs = torch.quantize_per_tensor(torch.from_numpy(tensor), float(scale), zero, dtype).dequantize().numpy()
    np.testing.assert_allclose(decoded(IntQ(8, span), tensor), theirs, atol=float(scale) * 1e-3)


def test_channels_have_steps_of_their_own():
    tensor = BATCH * np.array([1, 10, 100, 1000, 1e4], np.float32)[:, None, None]
    error = [np.abs(decoded(IntQ(4, per=per), tensor) - tensor)[:, 0].max() for per in ("tensor", "channel")]
    assert error[1] < error[0] / 1000


def test_stochastic_rounding_is_right_in_the_mean_and_repeats_with_its_seed():
    codec = IntQ(2, rounding="stochastic")
    mean = np.mean([decoded(codec, BATCH, seed) for seed in range(2000)], axis=0)
    step = np.ptp(BATCH) / 3
    assert np.abs(mean - BATCH).max() < 6 * step / 2 / np.sqrt(2000)
    np.testing.assert_array_equal(decoded(codec, BATCH, 7), decoded(codec, BATCH, 7))
    assert (decoded(codec, BATCH, 7) != decoded(codec, BATCH, 8)).any()


def test_golden_bytes():
    tensor = np.array([[0.0, 1.0, 2.0, 3.0, 0.4]], np.float32)
    payload = IntQ(2).encode(tensor).payload
    assert payload.hex() == "0000803f" + "00000000" + "e400"  # in steps of 1, from 0: 0 1 2 3 in a byte, then 0


@pytest.mark.parametrize("bits", range(2, 9))
def test_symmetric_steps_have_one_at_exactly_zero(bits):
    tensor = np.where(np.random.default_rng(bits).random((200, 50)) < 0.5, 0, BATCH.reshape(-1)[:50]).astype(np.float32)
    assert (decoded(IntQ(bits, "symmetric"), tensor)[tensor == 0] == 0).all()


def test_channels_are_refused_where_there_are_none():
    assert IntQ(per="channel").problem((8, 512)).startswith("per: found 'channel', allowed: 'tensor'")
    assert IntQ(per="channel").problem((8, 16, 4, 4)) == ""


def test_one_symmetric_bit_is_refused():
    with pytest.raises(msgspec.ValidationError, match="bits 1 goes with range 'affine' only"):
        msgspec.convert({"id": "intq", "bits": 1, "range": "symmetric"}, Codec)
