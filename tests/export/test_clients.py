"""Clients of many kinds, exported, run by onnxruntime, and compared with torch autograd by the certificate."""

import pytest
import torch
from torch import nn

from cutlayer.errors import UserError
from cutlayer.optimizers import Sgd
from cutlayer_export.certificate import certify
from cutlayer_export.onnx_writer import to_onnx
from cutlayer_export.training_graph import initial_values, trace_backward, trace_forward

OPTIMIZER = Sgd(learning_rate=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
SHAPE = (3, 8, 8)
CLIENTS = {
    "one convolution, kernel as wide as its input is deep": [nn.Conv2d(3, 8, 3)],
    "BatchNorm after a bias": [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)],
    "grouped and depthwise": [nn.Conv2d(3, 6, 3, stride=2, groups=3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6)],
    "dilated, overlapping pool": [nn.Conv2d(3, 4, 3, dilation=2, padding=2), nn.LeakyReLU(), nn.MaxPool2d(3, 2, 1)],
    "average pools": [nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.Hardswish(), nn.AdaptiveAvgPool2d(1)],
    "linear, LayerNorm": [nn.Flatten(), nn.Linear(192, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 8), nn.SiLU()],
    "GroupNorm": [nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ELU()],
}


def bundle(modules):
    torch.manual_seed(0)
    client = nn.Sequential(*modules).train()
    values = initial_values(client, OPTIMIZER)
    smashed = tuple(client(torch.zeros(2, *SHAPE)).shape[1:])
    for name, buffer in client.named_buffers():
        buffer.copy_(values[f"buffers.{name}"])
    forward = to_onnx(trace_forward(client, values, SHAPE))
    return client, values, forward, to_onnx(trace_backward(client, values, SHAPE, smashed, OPTIMIZER))


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_trains_on_onnxruntime_as_in_torch(name):
    client, values, forward, backward = bundle(CLIENTS[name])
    assert certify(client, values, forward, backward, SHAPE, OPTIMIZER).worst < 1e-4


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([nn.Conv2d(3, 4, 3), nn.Dropout(0.5)], "has the dropout '1'"),
        ([nn.ConvTranspose2d(3, 4, 3)], "backward pass of a transposed convolution; cut before it"),
    ],
)
def test_a_client_that_cannot_be_trained_is_refused_by_name(modules, message):
    with pytest.raises(UserError, match=message):
        bundle(modules)
