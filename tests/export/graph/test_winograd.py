"""Winograd's convolutions against torch's own, in a traced graph, and on both engines."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from clients import IMAGE, SGD, certified, traced
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_export.graph import winograd
from cutlayer_export.graph.form import Form
from cutlayer_export.graph.toom_cook import matrices
from cutlayer_export.graph.winograd import Layer
from cutlayer_export.graph.winograd_layers import gain, use_winograd
from cutlayer_export.onnx.lines import keep_lines

aten, ours = torch.ops.aten, torch.ops.cutlayer
SIZES = [((8, 8), (1, 1)), ((9, 7), (1, 1)), ((10, 13), (0, 2)), ((3, 4), (0, 0)), ((4, 4), (1, 0)), ((17, 16), (2, 1))]


@pytest.mark.parametrize(("size", "padding"), SIZES)
def test_results_and_both_gradients_are_those_of_torch(size, padding):
    torch.manual_seed(0)
    layer = Layer(5, 6, size, padding)
    x, weight = torch.randn(3, 5, *size), torch.randn(6, 5, 3, 3)
    geometry = ([1, 1], padding, [1, 1], False, [0, 0], 1)
    y = aten.convolution(x.double(), weight.double(), None, *geometry)
    dy = torch.randn(y.shape)
    dx, dw, _ = aten.convolution_backward(
        dy.double(), x.double(), weight.double(), None, *geometry, [True, True, False]
    )
    spread_x, spread_dy = winograd.transformed_x(x, layer), winograd.transformed_dy(dy, layer)
    for found, wanted in (
        (winograd.forward(spread_x, weight, layer), y),
        (winograd.grad_weight(spread_x, spread_dy, layer), dw),
        (winograd.grad_input(spread_dy, weight, layer), dx),
    ):
        assert float((found - wanted).norm() / wanted.norm()) < 2e-6


def test_the_matrices_compute_a_convolution_exactly_but_for_rounding():
    patch, kernel, back = matrices()
    x, weight = np.random.default_rng(0).standard_normal((2, 6, 1))
    found = back @ ((kernel @ weight[:3]) * (patch @ x))
    np.testing.assert_allclose(found[:, 0], np.convolve(x[:, 0], weight[2::-1, 0], "valid"), rtol=1e-12)


def test_the_points_halve_the_error_of_the_customary_ones(monkeypatch):
    torch.manual_seed(0)
    layer = Layer(64, 64, (32, 32), (1, 1))
    x, weight = torch.randn(8, 64, 32, 32).relu(), torch.randn(64, 64, 3, 3) / 24
    wanted = torch.conv2d(x.double(), weight.double(), padding=1)

    def error():
        matrices.cache_clear()
        return float(
            (winograd.forward(winograd.transformed_x(x, layer), weight, layer) - wanted).norm() / wanted.norm()
        )

    ours_error = error()
    with monkeypatch.context() as changed:
        changed.setattr("cutlayer_export.graph.toom_cook._POINTS", tuple(map(Fraction, (0, 1, -1, 2, -2))))
        customary = error()
    matrices.cache_clear()
    assert ours_error < 0.6 * customary


def layers():
    """Convolutions, of which the second, third and fourth can be computed by Winograd's way."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 40, 3, padding=(0, 2)), nn.ReLU(),
        nn.Conv2d(40, 32, 3, padding=1, bias=False),
        nn.Conv2d(32, 32, 3, stride=2), nn.Conv2d(32, 32, 3, padding=2, dilation=2), nn.Conv2d(32, 32, 1),
        nn.Conv2d(32, 32, 3, groups=2, padding=1),
    )  # fmt: skip


def test_what_can_be_done_is_replaced_and_nothing_is_transformed_twice():
    _, graph = traced(layers(), IMAGE, SGD)
    use_winograd(graph.module, least_gain=0)

    def count(operation):
        return len(graph.module.graph.find_nodes(op="call_function", target=operation.default))

    assert count(ours.spread) == 3 * 2, "x and dy of each layer"
    assert count(ours.tile_products) == 3 * 2
    assert count(ours.tile_correlations) == 3
    assert count(aten.convolution) == 5
    assert count(ours.convolution_grad_weight) == 5
    assert count(ours.convolution_grad_input) == 4, "nobody asks for the gradient of the images"


def require_same_results(model):
    """Rewrite a model's training graph, hold its results against those before, and return it."""
    _, graph = traced(model, IMAGE, SGD)
    inputs = [value.clone() for value in graph.inputs.values()]
    before = graph.module(*inputs)
    use_winograd(graph.module, least_gain=0)
    keep_lines(graph.module)
    for found, wanted in zip(graph.module(*inputs), before, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    return graph.module.graph


def test_images_stay_lines_between_layers_and_nothing_else_changes():
    blocks = [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    graph = require_same_results(nn.Sequential(nn.Conv2d(3, 8, 1), *blocks))
    turns = [
        len(graph.find_nodes(op="call_function", target=each.default)) for each in (ours.to_lines, ours.from_lines)
    ]
    assert turns == [2, 2], "x and g come in as images, z and the gradient of x go out as images"


@pytest.mark.parametrize("shape", [(8, 1), (8, 1, 1), (1, 1, 1, 8), (8,)])
def test_what_would_mean_something_else_for_lines_stays_an_operation_on_images(shape):
    class Shifted(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
            self.register_buffer("shift", torch.randn(shape))

        def forward(self, x):
            return self[1](self[0](x) + self.shift)

    require_same_results(Shifted())


def test_options_of_an_operation_are_kept():
    class Residual(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))

        def forward(self, x):
            y = self[0](x)
            return torch.add(y, self[1](y), alpha=3)

    require_same_results(Residual())


def test_layers_that_gain_are_those_with_many_channels_and_small_images():
    same = (1, 1)
    assert gain(Layer(256, 256, (8, 8), same)) > 1.9
    assert gain(Layer(64, 128, (16, 16), same)) > 1.5
    assert gain(Layer(3, 64, (32, 32), same)) < 1
    assert gain(Layer(16, 16, (56, 56), same)) < 1


@pytest.mark.parametrize("engine", ["onnx", "tflite"])
@pytest.mark.parametrize("size", [(8, 8), (11, 6)])
def test_engines_compute_them_too(monkeypatch, engine, size):
    monkeypatch.setattr(f"cutlayer_export.{engine}.writer._LEAST_GAIN", 0)
    certificate = certified(layers(), InputSpec(shape=(3, *size)), form=Form(engine))
    assert max(certificate.errors.values()) < 1e-4
