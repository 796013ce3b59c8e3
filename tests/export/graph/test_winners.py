"""Pooling that keeps a byte a window against torch's own, in a traced graph, and on ONNX."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from client_cases import Function
from clients import IMAGE, SGD, certified, graphs_of, traced
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_export.graph.winners import NONE, keep_winners, pool_winners, unpool

aten, ours = torch.ops.aten, torch.ops.cutlayer
TIES = torch.randint(-2, 3, (7, 3, 8, 6), generator=torch.Generator().manual_seed(0)).float()


def torchs_gradient(x, dy):
    y, positions = aten.max_pool2d_with_indices(x, [2, 2])
    return y, aten.max_pool2d_with_indices_backward(dy, x, [2, 2], [2, 2], [0, 0], [1, 1], False, positions)


@pytest.mark.parametrize("positive", [False, True])
def test_each_window_gives_its_gradient_to_the_entry_that_torch_gives_it_to(positive):
    dy = torch.randn(7, 3, 4, 3)
    y, _ = torchs_gradient(TIES, dy)
    _, wanted = torchs_gradient(TIES, dy * (y > 0) if positive else dy)
    winners = pool_winners(TIES, y, positive)
    assert winners.dtype == torch.uint8
    assert bool((winners == NONE).any()) == positive
    assert torch.equal(unpool(dy, winners), wanted)


POOLED = {
    "relu before": [nn.ReLU(), nn.MaxPool2d(2)],
    "relu after": [nn.MaxPool2d(2), nn.ReLU()],
    "no relu": [nn.MaxPool2d(2), nn.Sigmoid()],
    "twice": [nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.MaxPool2d(2)],
}


@pytest.mark.parametrize("layers", POOLED.values(), ids=POOLED)
def test_no_image_is_kept_for_pooling_and_nothing_else_changes(layers):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers)
    _, graph = traced(model, IMAGE, SGD)
    before = graph.module(*graph.inputs.values())
    keep_winners(graph.module)
    for found, wanted in zip(graph.module(*graph.inputs.values()), before, strict=True):
        assert torch.equal(found, wanted)
    assert not graph.module.graph.find_nodes(op="call_function", target=ours.max_pool_grad.default)
    assert certified(model, IMAGE).valid
    forward = onnx.load_from_string(graphs_of(model, IMAGE).files["forward"])
    kept = [each.type.tensor_type for each in forward.graph.output if each.name.startswith("saved.")]
    of_images = [each for each in kept if [axis.dim_value for axis in each.shape.dim[2:]] == [8, 8]]
    assert not of_images
    assert any(each.elem_type == onnx.TensorProto.UINT8 for each in kept)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, padding=1)])
def test_other_windows_stay_as_they_are(pool):
    _, graph = traced(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), pool), InputSpec(shape=(3, 9, 9)), SGD)
    keep_winners(graph.module)
    assert graph.module.graph.find_nodes(op="call_function", target=ours.max_pool_grad.default)


def test_an_odd_row_and_column_that_no_window_covers_is_pooled_as_in_torch():
    assert certified(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2)), InputSpec(shape=(3, 9, 7))).valid


def test_onnx_gives_ties_to_the_same_entry():
    """Flat images: windows whose entries are all equal, all zero after a ReLU, or equal in pairs."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.MaxPool2d(2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
    graphs = graphs_of(model, InputSpec(shape=(1, 8, 6))).graphs
    x, g = TIES[:, :1], torch.randn(7, 2, 4, 3)
    z = model(x)
    z.backward(g)
    values = {"x": x.numpy(), "params.0.weight": model[0].weight.detach().numpy()}
    zeros = {"state.momentum.0.weight": np.zeros((2, 1, 1, 1), np.float32)}
    given = values | zeros | {"g": g.numpy(), "learning_rate": np.asarray(0.1, np.float32)}
    found = graphs.backward(given | graphs.forward(given))
    np.testing.assert_allclose(found["gradients.0.weight"], model[0].weight.grad.numpy(), rtol=1e-6)


class Coarse(torch.autograd.Function):
    """A gradient in whole steps, as bytes: what has no business in forward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 1.0

    @staticmethod
    def backward(ctx, dy):
        [x] = ctx.saved_tensors
        return ((dy * x.sin()).clamp(-1, 1) * 10 + 20).to(torch.uint8).float() / 10 - 2


def test_bytes_that_come_of_the_cut_gradient_stay_in_backward():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Function(nn.Conv2d(4, 4, 1), Coarse.apply))
    forward = onnx.load_from_string(graphs_of(model, IMAGE).files["forward"])
    assert "g" not in {each.name for each in forward.graph.input}
