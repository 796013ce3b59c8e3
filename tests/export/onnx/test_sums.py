"""Sums are torch's, and those over the first axes are products, which are as fast on several threads as on one."""

import onnx
import pytest
import torch
from torch import nn

from client_cases import Function, client
from clients import certified, graphs_of
from cutlayer_core.trial.recipe import InputSpec

WIDE = InputSpec(shape=(8, 160))


class Biased(nn.Module):
    """Adds a bias for each of many places, whose gradient is a sum over samples."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(8, 160))

    def forward(self, x):
        return torch.tanh(x + self.bias)


def test_a_large_sum_over_samples_is_a_product():
    files = graphs_of(Biased(), WIDE).files
    kinds = [node.op_type for node in onnx.load_from_string(files["backward"]).graph.node]
    assert "ReduceSum" not in kinds
    assert "MatMul" in kinds
    assert certified(Biased(), WIDE).valid


@pytest.mark.parametrize(
    "summed",
    [
        lambda x: x * x.sum(0),
        lambda x: x * x.sum((0, 1), keepdim=True),
        lambda x: x * x.sum(0, keepdim=True),
        lambda x: x * x.sum((1, 2), keepdim=True),
        lambda x: x * x.sum([]),
        lambda x: x * x.sum(dim=None, keepdim=True),
        lambda x: x * (x > 0).sum(0),
        lambda x: x * (x > 0).sum(1, keepdim=True),
        lambda x: x * x.sum(-3, dtype=torch.float32),
    ],
    ids=["samples", "two axes", "kept", "others", "all", "no axes", "booleans", "booleans of an axis", "a type"],
)
def test_a_sum_is_that_of_torch(summed):
    assert certified(client([Function(nn.Linear(160, 160), summed)]), WIDE).valid
