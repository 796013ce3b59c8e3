"""The traced functions against torch autograd and torch.optim, before any runtime is involved."""

import copy

import pytest
import torch
from torch import nn

from cutlayer.optimizers import Sgd
from cutlayer_export.training_graph import initial_values, trace_backward, trace_forward

CLIENTS = {
    "convolution": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2)), (1, 8, 8)),
    "batch norm": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), (1, 8, 8)),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 8)), (1, 8, 8)),
}
OPTIMIZERS = [
    Sgd(learning_rate=0.1),
    Sgd(learning_rate=0.1, momentum=0.9),
    Sgd(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
]


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("settings", OPTIMIZERS, ids=lambda each: f"{each.momentum}-{each.nesterov}")
def test_steps_equal_those_of_torch_for_any_batch_size(name, settings):
    torch.manual_seed(0)
    build, shape = CLIENTS[name]
    client = build().train()
    reference = copy.deepcopy(client)
    optimizer = torch.optim.SGD(
        reference.parameters(), settings.learning_rate, settings.momentum,
        nesterov=settings.nesterov, weight_decay=settings.weight_decay,
    )  # fmt: skip
    values = initial_values(client, settings)
    forward = trace_forward(client, values, shape)
    smashed_shape = tuple(client(torch.zeros(2, *shape)).shape[1:])
    client.load_state_dict(reference.state_dict())
    backward = trace_backward(client, values, shape, smashed_shape, settings)
    for batch in (4, 1 if name != "batch norm" else 2, 7):
        x = torch.randn(batch, *shape)
        z = reference(x)
        g = torch.randn_like(z)
        optimizer.zero_grad()
        z.backward(g)
        optimizer.step()
        offered = {"x": x, "g": g, "learning_rate": torch.tensor(settings.learning_rate), **values}
        outputs = forward.module({key: offered[key] for key in forward.inputs})
        torch.testing.assert_close(outputs.pop("z"), z)
        outputs |= backward.module({key: offered[key] for key in backward.inputs})
        values |= {key.removeprefix("new_"): value for key, value in outputs.items()}
    for key, value in reference.state_dict().items():
        kind = "params" if f"params.{key}" in values else "buffers"
        torch.testing.assert_close(values[f"{kind}.{key}"], value, rtol=1e-4, atol=1e-5)


def test_tracing_leaves_the_client_as_it_was():
    torch.manual_seed(0)
    client = CLIENTS["batch norm"][0]().train()
    before = copy.deepcopy(client.state_dict())
    settings = OPTIMIZERS[1]
    values = initial_values(client, settings)
    trace_forward(client, values, (1, 8, 8))
    trace_backward(client, values, (1, 8, 8), (4, 6, 6), settings)
    assert all(torch.equal(value, before[key]) for key, value in client.state_dict().items())
