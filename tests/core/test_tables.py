"""Rows that are brought up to date late are as if every step had gone over the whole table: held against torch.optim."""

import numpy as np
import pytest

from cutlayer_core import tables
from cutlayer_core.tables import Occurrences, Table
from cutlayer_core.trial.optimizers import Sgd

ROWS, WIDTH, STEPS = 40, 6, 30
SETTINGS = {
    "plain": Sgd(learning_rate=0.1),
    "decay": Sgd(learning_rate=0.1, weight_decay=0.02),
    "momentum": Sgd(learning_rate=0.1, momentum=0.9),
    "momentum and decay": Sgd(learning_rate=0.1, momentum=0.9, weight_decay=0.02),
    "nesterov": Sgd(learning_rate=0.1, momentum=0.8, nesterov=True, weight_decay=0.02),
}


def rate_of(step):
    return 0.1 / (1 + step % 7)


def torchs(settings, weight, gradients):
    """Weight and momentum after all steps, in float64."""
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.from_numpy(weight).double())
    sgd = torch.optim.SGD(
        [parameter], lr=0.1, momentum=settings.momentum, nesterov=settings.nesterov, weight_decay=settings.weight_decay
    )
    for step, (rows, values) in enumerate(gradients):
        sgd.param_groups[0]["lr"] = rate_of(step)
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad[rows] = torch.from_numpy(values).double()
        sgd.step()
    momentum = sgd.state[parameter].get("momentum_buffer")
    return parameter.detach().numpy(), None if momentum is None else momentum.numpy()


def stepped(table, rows, gradient, rate, settings):
    """What a board's graph does with rows that occur."""
    weight = table.weight[rows]
    change = gradient + settings.weight_decay * weight
    momentum = None
    if settings.momentum:
        momentum = settings.momentum * table.momentum[rows] + change
        change = change + settings.momentum * momentum if settings.nesterov else momentum
    table.step(rows, (weight - rate * change).astype(np.float32), momentum, rate)


@pytest.mark.parametrize("most_steps", [4, 1000])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_late_rows_are_as_if_they_had_taken_every_step(monkeypatch, settings, most_steps):
    monkeypatch.setattr(tables, "_MOST_STEPS", most_steps)
    random = np.random.default_rng(0)
    weight = random.standard_normal((ROWS, WIDTH)).astype(np.float32)
    table = Table(weight.copy(), np.zeros_like(weight) if settings.momentum else None, settings)
    gradients = []
    for step in range(STEPS):
        rows = np.unique(random.integers(0, ROWS // 2, 4))
        gradients.append((rows, random.standard_normal((len(rows), WIDTH)).astype(np.float32)))
        table.read(rows)
        now, _ = torchs(settings, weight, gradients[:-1])
        np.testing.assert_allclose(table.weight[rows], now[rows], rtol=1e-4, atol=1e-5)
        stepped(table, *gradients[-1], rate_of(step), settings)
    table.read_all()
    wanted, momentum = torchs(settings, weight, gradients)
    np.testing.assert_allclose(table.weight, wanted, rtol=1e-4, atol=1e-5)
    if settings.momentum:
        np.testing.assert_allclose(table.momentum, momentum, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [[[3, 1, 3], [3, 7, 1]], [[1, 2, 3]], [[5, 5, 5]], [[4]]])
def test_each_row_that_occurs_is_named_once_and_every_token_is_placed(tokens):
    x = np.array(tokens)
    found, flat = Occurrences.of(x, 8), x.reshape(-1)
    assert found.rows.tolist() == sorted(set(flat.tolist()))
    assert found.first.tolist() == [flat.tolist().index(row) for row in found.rows]
    assert found.rows[found.positions].tolist() == tokens
    assert sorted([*found.first, *found.rest]) == list(range(x.size))
    assert flat[found.rest].tolist() == found.rows[found.places].tolist()


def test_places_are_int64_also_where_those_of_numpy_are_int32(monkeypatch):
    flatnonzero, arange = np.flatnonzero, np.arange
    monkeypatch.setattr(np, "flatnonzero", lambda values: flatnonzero(values).astype(np.int32))
    monkeypatch.setattr(np, "arange", lambda *sizes, dtype=np.int32: arange(*sizes, dtype=dtype))
    found = Occurrences.of(np.array([[3, 1, 3], [3, 7, 1]]), 8)
    assert {each.dtype for each in found} == {np.dtype(np.int64)}
