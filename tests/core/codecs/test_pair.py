"""Codecs of both directions together, and the lossless stage behind them."""

import itertools
import sys

import msgspec
import numpy as np
import pytest
import zstandard

from cutlayer_core.codecs import Codecs, Fp8, Fwq, IntQ, ProductQuantizer, Raw, SplitFC, TopK
from cutlayer_core.codecs.lossless import expand, shrink
from cutlayer_core.errors import CodecError, UserError

RANDOM = np.random.default_rng(0)
SMASHED = np.maximum(RANDOM.standard_normal((8, 6, 4, 4)) - 0.5, 0).astype(np.float32)
GRADIENT = RANDOM.standard_normal(SMASHED.shape).astype(np.float32)
UP = [Raw(), Fp8(), IntQ(4), TopK(0.25), ProductQuantizer(12, 4, correction=0.1), SplitFC(4.0, 2), Fwq(2.0)]
DOWN = [Raw(), Fp8("e5m2"), IntQ(8, rounding="stochastic"), TopK(0.5), ProductQuantizer(6, 2), Fwq(4.0)]
BOTH = [Codecs(up=up, down=down, lossless=stage) for up, down, stage in itertools.product(UP, DOWN, ["none", "zstd"])]


@pytest.mark.parametrize("codecs", BOTH, ids=str)
def test_any_two_codecs_go_together(codecs):
    """Up, down, and the client's gradient has the shape of its smashed data."""
    assert codecs.problem(SMASHED.shape) == ""
    sent = codecs.encode(SMASHED, seed=1)
    received = codecs.decode(sent.tensor, sent.payload)
    assert received.values.shape == SMASHED.shape
    answer = codecs.encode_gradient(GRADIENT, received, seed=2)
    limits = codecs.largest_bytes(SMASHED.shape)
    assert (len(sent.coded), len(answer.coded)) == (limits["up"], limits["down"])
    gradient = codecs.decode_gradient(answer.tensor, answer.payload, sent)
    assert gradient.shape == SMASHED.shape
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("codecs", BOTH, ids=str)
@pytest.mark.parametrize("shared", [3, 8])
def test_clients_may_share_the_first_samples_of_a_gradient(codecs, shared):
    """As if each had got all of it, up to what the codec of the gradient loses."""
    sent = codecs.encode(SMASHED, seed=1)
    received = codecs.decode(sent.tensor, sent.payload)
    to_all = codecs.encode_shared(GRADIENT[:shared], seed=2)
    own = codecs.encode_gradient(GRADIENT[shared:], received, seed=3, first=shared) if shared < 8 else None
    rows = codecs.decode_shared(to_all.tensor, to_all.payload, sent.tensor)
    found = codecs.decode_gradient(own and own.tensor, own.payload if own else b"", sent, rows)
    whole = codecs.encode_gradient(GRADIENT, received)
    wanted = codecs.decode_gradient(whole.tensor, whole.payload, sent)
    assert found.shape == wanted.shape
    if isinstance(codecs.down, Raw):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_shared_samples_that_do_not_belong_are_refused():
    codecs = Codecs()
    sent, other = codecs.encode(SMASHED), codecs.encode_shared(np.ones((2, 6, 4, 5), np.float32))
    with pytest.raises(CodecError, match="a shared gradient of shape"):
        codecs.decode_shared(other.tensor, other.payload, sent.tensor)
    with pytest.raises(CodecError, match="want None"):
        codecs.decode_gradient(sent.tensor, sent.payload, sent, SMASHED)


def test_raw_both_ways_changes_nothing():
    codecs = Codecs()
    sent = codecs.encode(SMASHED)
    received = codecs.decode(sent.tensor, sent.payload)
    np.testing.assert_array_equal(received.values, SMASHED)
    answer = codecs.encode_gradient(GRADIENT, received)
    np.testing.assert_array_equal(codecs.decode_gradient(answer.tensor, answer.payload, sent), GRADIENT)


def test_smashed_data_that_are_kept_have_no_dropout():
    codecs = Codecs(up=SplitFC(8.0, 4))
    sent = codecs.encode(SMASHED, steady=True)
    assert sent.tensor.codec == "fwq"
    assert np.abs(codecs.decode(sent.tensor, sent.payload, steady=True).values - SMASHED).max() < 0.2
    with pytest.raises(CodecError, match="encoded as 'fwq', the trial uses 'splitfc'"):
        codecs.decode(sent.tensor, sent.payload)


def test_what_compresses_travels_shorter_and_comes_back():
    codecs = Codecs(up=Fp8(), lossless="zstd")
    sent = codecs.encode(np.zeros_like(SMASHED))
    assert sent.tensor.shrunk
    assert len(sent.payload) < len(sent.coded) == SMASHED.size
    np.testing.assert_array_equal(codecs.decode(sent.tensor, sent.payload).values, 0)


def test_what_does_not_compress_travels_as_it_is():
    noise = RANDOM.integers(0, 2**32, SMASHED.shape, dtype=np.uint32).view(np.float32)
    sent = Codecs(lossless="zstd").encode(noise)
    assert not sent.tensor.shrunk
    assert len(sent.payload) == len(sent.coded)


def test_a_compressed_payload_of_another_size_is_refused_before_it_is_expanded():
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    with pytest.raises(CodecError, match="announces 1048576 bytes, 100 are needed"):
        expand(bomb, 100)
    unsaid = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))
    with pytest.raises(CodecError, match="announces -1 bytes"):
        expand(unsaid, 100)


@pytest.mark.parametrize("payload", [b"", b"hello", shrink(bytes(100))[:-2], b"\x28\xb5\x2f\xfd" + bytes(20)])
def test_a_compressed_payload_that_is_none_is_refused(payload):
    with pytest.raises(CodecError):
        expand(payload, 100)


def test_without_its_package_the_lossless_stage_says_so_and_all_else_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert Codecs().encode(SMASHED).payload
    with pytest.raises(UserError, match=r"codec.lossless: found 'zstd', for which the package zstandard is missing"):
        Codecs(lossless="zstd").encode(SMASHED)


def test_compression_that_the_trial_does_without_is_refused():
    sent = Codecs(lossless="zstd").encode(np.zeros_like(SMASHED))
    with pytest.raises(CodecError, match="the trial does without"):
        Codecs().decode(sent.tensor, sent.payload)


@pytest.mark.parametrize("change", [{"shape": (8, 95)}, {"shape": SMASHED.shape}, {"codec": "raw"}])
def test_a_gradient_that_does_not_answer_is_refused(change):
    codecs = Codecs(up=TopK(0.2), down=Fp8())
    sent = codecs.encode(SMASHED)
    answer = codecs.encode_gradient(GRADIENT, codecs.decode(sent.tensor, sent.payload))
    tensor = msgspec.structs.replace(answer.tensor, **change)
    with pytest.raises(CodecError):
        codecs.decode_gradient(tensor, answer.payload, sent)


def test_what_clients_share_must_fit_too():
    """All of a sample's gradient, where each alone wants a part."""
    codecs = Codecs(up=TopK(0.25), down=ProductQuantizer(8, 2))
    assert codecs.problem(SMASHED.shape) == ""
    assert Codecs(up=TopK(0.25), down=ProductQuantizer(24, 2)).problem(SMASHED.shape, shared=4) == ""
    five = (8, 5, 3, 3)
    assert (
        Codecs(up=TopK(0.35), down=ProductQuantizer(8, 4)).problem(five, shared=4).startswith("codec.down.subvectors")
    )
    assert Codecs(up=TopK(0.01)).largest_bytes(SMASHED.shape, shared=4)["down"] == 4 * 4 * 96


def test_problems_name_the_key():
    assert (
        Codecs(down=ProductQuantizer(6, 2, correction=1.0)).problem(SMASHED.shape).startswith("codec.down.correction")
    )
    assert Codecs(up=ProductQuantizer(7, 2)).problem(SMASHED.shape).startswith("codec.up.subvectors: found 7")
    assert Codecs(down=ProductQuantizer(7, 2)).problem(SMASHED.shape).startswith("codec.down.subvectors: found 7")
    assert Codecs(down=SplitFC()).problem(SMASHED.shape).startswith("codec.down.id: found 'splitfc', allowed: 'fwq'")
