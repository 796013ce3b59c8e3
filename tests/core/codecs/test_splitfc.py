import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer_core.codecs import Fwq, SplitFC
from cutlayer_core.codecs.splitfc import draw, keep_probabilities
from cutlayer_core.errors import CodecError

RANDOM = np.random.default_rng(0)
SMASHED = np.maximum(RANDOM.standard_normal((64, 1152)) * RANDOM.gamma(0.5, 1, 1152) - 0.3, 0).astype(np.float32)


def decoded(codec, tensor, seed=0):
    encoded = codec.encode(tensor, seed)
    return codec.decode(encoded.payload, encoded.params, tensor.shape)


def relative_error(codec, tensor):
    return float(((decoded(codec, tensor) - tensor) ** 2).sum() / (tensor**2).sum())


@pytest.mark.parametrize("bits_per_entry", [0.1, 0.2, 0.4, 0.8, 1.6, 4.0])
@pytest.mark.parametrize("codec", [Fwq, lambda bits: SplitFC(bits, 8)], ids=["fwq", "splitfc"])
def test_the_budget_is_met_exactly(codec, bits_per_entry):
    payload = codec(bits_per_entry).encode(SMASHED).payload
    assert len(payload) == int(bits_per_entry * SMASHED.size) // 8


@pytest.mark.parametrize("bits_per_entry", [0.1, 0.4, 1.6])
def test_hardly_any_of_the_budget_is_padding(bits_per_entry):
    payload = bytes(Fwq(bits_per_entry).encode(SMASHED).payload)
    assert len(payload.rstrip(b"\0")) > 0.97 * len(payload)


def test_the_320_times_of_the_paper_are_a_tenth_of_a_bit_an_entry():
    assert 32 * SMASHED.size / SplitFC(0.1, 16).bits(SMASHED.shape) == pytest.approx(320, rel=1e-3)


def test_more_bits_err_less():
    errors = [relative_error(Fwq(bits), SMASHED) for bits in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


def test_levels_of_each_column_beat_one_number_of_levels_for_all():
    """Uniform quantization with the same bits: 1 an entry."""
    from cutlayer_core.codecs import IntQ

    assert relative_error(Fwq(1.0), SMASHED) < relative_error(IntQ(1, per="channel"), SMASHED) / 10


def test_signed_columns_and_tiny_ones_are_quantized_alike():
    gradient = (RANDOM.standard_normal((32, 200)) * 1e-12).astype(np.float32)
    assert relative_error(Fwq(4.0), gradient) < 0.05


def test_columns_that_do_not_vary_cost_nothing_of_their_value():
    tensor = np.broadcast_to(np.linspace(-1, 1, 50, dtype=np.float32), (16, 50))
    assert np.abs(decoded(Fwq(2.0), tensor) - tensor).max() < 0.01


@pytest.mark.parametrize("codec", [Fwq(0.1), SplitFC(0.1, 8)], ids=str)
def test_a_batch_too_small_for_its_budget_still_travels(codec):
    tensor = SMASHED[:1]
    assert np.isfinite(decoded(codec, tensor)).all()
    assert codec.bits(tensor.shape) < 32 * tensor.size / 4


@pytest.mark.parametrize("bits_per_entry", [0.1, 0.4, 1.6])
@pytest.mark.parametrize("cut_off", [None, 0.3, 1.0], ids=["dense", "84 % zeros", "95 % zeros"])
def test_the_number_of_wide_columns_is_near_the_best(monkeypatch, bits_per_entry, cut_off):
    """Of every 36th number up to the most that fit."""
    tensor = np.random.default_rng(0).standard_normal((64, 1152)) * np.random.default_rng(1).gamma(0.5, 1, 1152)
    tensor = (tensor if cut_off is None else np.maximum(tensor - cut_off, 0)).astype(np.float32)
    codec = Fwq(bits_per_entry)
    ours, errors = relative_error(codec, tensor), []
    most = (codec.bits(tensor.shape) - 8 * (28 + 144) - 1152) / (64 + 2 * np.log2(200))
    for number in range(0, min(int(most), 1152), 36):
        monkeypatch.setattr("cutlayer_core.codecs.fwq._how_many_wide", lambda *_, number=number: number)
        errors.append(relative_error(codec, tensor))
    assert ours <= 1.1 * min(errors)


@pytest.mark.parametrize("samples", [1, 3, 8])
@pytest.mark.parametrize("bits_per_entry", [0.2, 0.4])
def test_a_batch_with_few_bits_is_hardly_worse_than_nothing(samples, bits_per_entry):
    gradient = (RANDOM.standard_normal((samples, 1152)) * RANDOM.gamma(0.5, 1, 1152)).astype(np.float32)
    assert relative_error(Fwq(bits_per_entry), gradient) < 1.2


@given(st.lists(st.floats(0, 10), min_size=2, max_size=60), st.data())
def test_probabilities_sum_to_what_is_kept_and_none_is_beyond_1(deviations, data):
    sigma = np.array(deviations)
    kept = data.draw(st.integers(1, len(deviations)))
    probabilities = keep_probabilities(sigma, kept)
    assert probabilities.sum() == pytest.approx(kept)
    assert probabilities.max() <= 1
    assert probabilities.min() >= 0.1 * kept / len(deviations) - 1e-12
    order = np.argsort(sigma)
    assert (np.diff(probabilities[order]) >= -1e-12).all(), "what varies more is kept more often"


@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=40), st.integers(0, 2**31), st.data())
def test_exactly_as_many_are_drawn_as_are_kept(deviations, seed, data):
    kept = data.draw(st.integers(1, len(deviations)))
    columns = draw(keep_probabilities(np.array(deviations), kept), np.random.default_rng(seed))
    assert len(set(columns.tolist())) == len(columns) == kept


def test_each_column_is_drawn_with_its_probability():
    probabilities = keep_probabilities(RANDOM.gamma(0.5, 1, 30), 10)
    random, draws = np.random.default_rng(1), 20_000
    counts = np.bincount(np.concatenate([draw(probabilities, random) for _ in range(draws)]), minlength=30)
    deviation = np.sqrt(probabilities * (1 - probabilities) / draws)
    assert (np.abs(counts / draws - probabilities) < 5 * deviation).all()


def test_masked_features_are_the_features_in_the_mean():
    """E[masked F] = F: with bits enough that quantization does not matter."""
    tensor, codec, draws = SMASHED[:8, :24], SplitFC(16.0, 3), 600
    total = np.zeros(tensor.shape)
    squares = np.zeros(tensor.shape)
    for seed in range(draws):
        found = decoded(codec, tensor, seed)
        total += found
        squares += found.astype(np.float64) ** 2
    mean = total / draws
    deviation = np.sqrt((squares / draws - mean**2) / draws)
    assert (np.abs(mean - tensor) < 5 * deviation + 1e-3).all()


def test_the_gradient_is_masked_and_scaled_as_the_features_were():
    """The chain rule, against finite differences: the loss is a sum of what arrives, weighted by the gradient."""
    codec, tensor = SplitFC(16.0, 4), SMASHED[:8, :60]
    gradient = RANDOM.standard_normal(tensor.shape).astype(np.float32)
    encoded = codec.encode(tensor, seed=3)
    client = codec.correct(codec.select(gradient, encoded.payload, tensor.shape), tensor.shape, encoded.context)
    mask = np.zeros(60, np.float32)
    mask[encoded.context["kept"]] = encoded.context["scale"]
    np.testing.assert_allclose(client, gradient * mask, rtol=1e-6)
    np.testing.assert_allclose(decoded(codec, tensor, seed=3), tensor * mask, atol=0.01 * tensor.max() * mask.max())


def test_channels_count_relative_to_their_own_range():
    """A channel a thousand times as strong is not kept more often for it."""
    tensor = RANDOM.random((16, 2, 8, 8)).astype(np.float32)
    tensor[:, 1] *= 1000
    counts = np.zeros(2)
    for seed in range(50):
        kept = SplitFC(8.0, 4).encode(tensor, seed).context["kept"]
        counts += np.bincount(kept // 64, minlength=2)
    assert 0.8 < counts[0] / counts[1] < 1.25


def test_what_is_kept_for_later_has_no_dropout():
    assert SplitFC(0.3, 8).steady == Fwq(0.3)


def test_the_columns_that_come_back_have_the_budget_of_all():
    share = SplitFC(0.4, 8).part_shape((64, 1152))[1] / 1152
    assert Fwq(0.2).for_share(share).bits((64, 144)) == pytest.approx(0.2 * 64 * 1152, abs=8)


def test_a_bitmap_with_another_number_of_columns_is_refused():
    codec = SplitFC(0.5, 4)
    payload = bytearray(codec.encode(SMASHED).payload)
    payload[:144] = bytes(144)
    with pytest.raises(CodecError, match="0 of 1152 columns were kept, expected 288"):
        codec.decode(bytes(payload), {}, SMASHED.shape)


def test_spans_that_cannot_be_are_refused():
    payload = np.array([1, -1, 0, 0, 0, 0, 1], "<f4").tobytes().ljust(Fwq(1.0).bits((64, 1152)) // 8, b"\0")
    with pytest.raises(CodecError, match="spans"):
        Fwq(1.0).decode(payload, {}, (64, 1152))


def test_golden_bytes():
    """Head and bitmap by hand; the digits as they were when a round trip was looked at."""
    tensor = np.stack([np.arange(24), np.full(24, 5.0)], axis=1).astype(np.float32)
    payload = bytes(Fwq(16.0).encode(tensor).payload)
    np.testing.assert_array_equal(np.frombuffer(payload[:24], "<f4"), [0, 0, 23, 23, 5, 5])
    assert payload[28] == 0b01
    assert np.abs(decoded(Fwq(16.0), tensor) - tensor).max() < 0.01
    digits = "000000004216862cc8420a594e6f9085d29b16b258c89adedef4200b6521a737e94d2d646f7ab190f5a637bd79d3bde9ffff01"
    assert payload[29:].hex().rstrip("0") == digits
