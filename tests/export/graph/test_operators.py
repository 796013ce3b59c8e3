"""The operators of a training graph against torch's own, before any runtime is involved."""

import pytest
import torch

from cutlayer_export.graph import random_numbers

aten = torch.ops.aten


def draws(seed, shape=(64, 50), probability=0.3, stream=1):
    return random_numbers.bernoulli(torch.tensor(seed), torch.empty(shape), probability, stream)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_share_of_ones_is_the_probability(probability):
    found = draws(7, (1000, 1000), probability)
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    assert float(found.mean()) == pytest.approx(probability, abs=2e-3)


def test_neighbours_rows_seeds_and_streams_are_independent():
    first = draws(7, (1000, 1000), 0.5) - 0.5
    others = {
        "neighbour": torch.roll(first, 1, 1), "row": torch.roll(first, 1, 0),
        "seed": draws(8, (1000, 1000), 0.5) - 0.5, "stream": draws(7, (1000, 1000), 0.5, stream=2) - 0.5,
    }  # fmt: skip
    for name, other in others.items():
        assert abs(float((first * other).mean())) < 1e-3, name


def test_equal_seeds_draw_equally_on_every_machine():
    """The same in whole numbers of Python, which never overflow."""

    def mixed(bits):
        bits &= 0xFFFFFFFF
        bits = (bits ^ bits >> 16) * 0x85EBCA6B & 0xFFFFFFFF
        bits = (bits ^ bits >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
        return bits ^ bits >> 16

    key = mixed(mixed(7 + 0x85EBCA77) + 0x27D4EB2F)
    wanted = [(mixed(number * 0x9E3779B1 + key) >> 1) < round(0.3 * 2**31) for number in range(64 * 50)]
    assert draws(7).flatten().bool().tolist() == wanted


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil_mode", "count_padding", "divisor"),
    [((2, 2), (2, 2), (0, 0), False, True, None), ((3, 2), (2, 1), (1, 0), True, False, None), ((3, 3), (1, 1), (1, 1), False, True, 5)],
)  # fmt: skip
def test_average_pooling_backward_equals_torch(kernel, stride, padding, ceil_mode, count_padding, divisor):
    from cutlayer_export.graph.decompositions import decompositions

    torch.manual_seed(0)
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    rest = (kernel, stride, padding, ceil_mode, count_padding, divisor)
    dy = torch.randn_like(aten.avg_pool2d(x, *rest))
    rule = decompositions()[aten.avg_pool2d_backward.default]
    torch.testing.assert_close(rule(dy, x, *rest), aten.avg_pool2d_backward(dy, x, *rest))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (6, 3), (5, 3, 2)])
def test_batch_norm_backward_equals_torch(training, shape):
    from cutlayer_export.graph.decompositions import decompositions

    torch.manual_seed(0)
    x, dy = torch.randn(shape, dtype=torch.float64) + 3, torch.randn(shape, dtype=torch.float64)
    weight, mean, variance = (torch.rand(3, dtype=torch.float64) + 0.5 for _ in range(3))
    _, batch_mean, deviation = aten.native_batch_norm(
        x, weight, None, mean.clone(), variance.clone(), training, 0.1, 1e-5
    )
    arguments = (dy, x, weight, mean, variance, batch_mean, deviation, training, 1e-5, [True, True, True])
    found = decompositions()[aten.native_batch_norm_backward.default](*arguments)
    for ours, wanted in zip(found, aten.native_batch_norm_backward(*arguments), strict=True):
        torch.testing.assert_close(ours, wanted)
