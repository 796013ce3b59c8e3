"""EPSL's arithmetic, against gradients that torch takes of losses written down another way."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot, softmax

from cutlayer_core.errors import RemoteError
from cutlayer_core.trial.optimizers import Sgd
from cutlayer_server.model.last_layer import Sharing
from cutlayer_server.model.server_model import Part, ServerModel

K, B, D, C = 3, 4, 6, 5


def network(*, affine=False, norm=False):
    torch.manual_seed(0)
    if affine:
        return nn.Linear(D, C)
    return nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Tanh(), nn.Linear(8, C))


def parts_of(sizes=(B, B, B), shares=None):
    random = np.random.default_rng(1)
    shares = shares or [size / sum(sizes) for size in sizes]
    return [
        Part(
            f"board-{number}",
            random.standard_normal((size, D)).astype(np.float32),
            random.integers(0, C, size).astype(np.uint16),
            share,
        )
        for number, (size, share) in enumerate(zip(sizes, shares, strict=True))
    ]


def stepped(half, parts, sharing=None, rate=0.1):
    model = ServerModel(copy.deepcopy(half), Sgd(learning_rate=rate))
    return model.step(parts, sharing), model.half


def own_gradients(half, parts):
    """Of each device's own mean loss."""
    found = []
    for part in parts:
        z = torch.tensor(part.smashed, requires_grad=True)
        cross_entropy(half(z), torch.from_numpy(part.labels.astype(np.int64))).backward()
        found.append(z.grad.numpy())
    return found


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_one_part_is_a_plain_step_to_the_last_bit():
    half, (part,) = network(norm=True), parts_of((B,))
    update, after = stepped(half, [part])
    z = torch.tensor(part.smashed, requires_grad=True)
    optimizer = torch.optim.SGD(half.parameters(), lr=0.1)
    cross_entropy(half(z.clone()), torch.from_numpy(part.labels.astype(np.int64))).backward()
    optimizer.step()
    np.testing.assert_array_equal(update.results[0].gradient, z.grad.numpy())
    for name, value in half.state_dict().items():
        assert torch.equal(after.state_dict()[name], value), name


def test_parts_update_the_server_by_their_shares_and_each_client_by_its_own_loss():
    half, parts = network(), parts_of((2, 5, 3))
    update, after = stepped(half, parts)
    for result, wanted in zip(update.results, own_gradients(half, parts), strict=True):
        close(result.gradient, wanted)
    loss = sum(
        part.share * cross_entropy(half(torch.tensor(part.smashed)), torch.from_numpy(part.labels.astype(np.int64)))
        for part in parts
    )
    for gradient, value, (name, found) in zip(
        torch.autograd.grad(loss, list(half.parameters())), half.parameters(), after.named_parameters(), strict=True
    ):
        close(found.detach(), (value - 0.1 * gradient).detach()), name


@pytest.mark.parametrize("point", ["mean", "each"])
@pytest.mark.parametrize(("phi", "shared"), [(0.25, 1), (0.3, 2), (0.5, 2), (1.0, 4)])
def test_shared_and_own_rows_are_m_and_b_less_m(phi, shared, point):
    """m + K (b - m) rows travel instead of K b."""
    update, _ = stepped(network(), parts_of(), Sharing(phi, point))
    assert update.shared.shape == (shared, D)
    assert [result.gradient.shape for result in update.results] == [(B - shared, D)] * K


@pytest.mark.parametrize("point", ["mean", "each"])
def test_rows_that_are_not_shared_are_those_of_the_own_loss(point):
    half, parts = network(), parts_of()
    update, _ = stepped(half, parts, Sharing(0.5, point))
    for result, wanted in zip(update.results, own_gradients(half, parts), strict=True):
        close(result.gradient, wanted[2:])


def outputs_of(half, part):
    y = torch.from_numpy(part.labels.astype(np.int64))
    with torch.no_grad():
        return (softmax(half(torch.tensor(part.smashed)), 1) - one_hot(y, C)) / len(y)


def test_the_mean_point_is_the_mean_gradient_at_the_mean_smashed_data():
    half, parts = network(), parts_of()
    update, _ = stepped(half, parts, Sharing(1.0, "mean"))
    middle = torch.tensor(np.mean([part.smashed for part in parts], axis=0), requires_grad=True)
    common = torch.stack([outputs_of(half, part) for part in parts]).mean(dim=0)
    half(middle).backward(common)
    close(update.shared, middle.grad)


def test_each_point_is_the_mean_over_devices_of_the_mean_gradient_at_their_own():
    half, parts = network(), parts_of()
    update, _ = stepped(half, parts, Sharing(1.0, "each"))
    common, found = torch.stack([outputs_of(half, part) for part in parts]).mean(dim=0), []
    for part in parts:
        z = torch.tensor(part.smashed, requires_grad=True)
        half(z).backward(common)
        found.append(z.grad)
    close(update.shared, torch.stack(found).mean(dim=0))


def test_both_points_are_one_where_the_server_is_affine():
    half, parts = network(affine=True), parts_of()
    mean, each = (stepped(half, parts, Sharing(0.75, point))[0] for point in ("mean", "each"))
    close(mean.shared, each.shared)


@pytest.mark.parametrize("point", ["mean", "each"])
def test_one_device_shares_with_itself(point):
    """With nobody to average with, phi changes nothing."""
    half, (part,) = network(), parts_of((B,))
    plain, after = stepped(half, [part])
    update, shared_after = stepped(half, [part], Sharing(0.5, point))
    close(np.concatenate([update.shared, update.results[0].gradient]), plain.results[0].gradient)
    for name, value in after.state_dict().items():
        close(shared_after.state_dict()[name], value)


def test_unequal_batches_share_what_the_smallest_has():
    update, _ = stepped(network(), parts_of((2, 5)), Sharing(1.0, "mean"))
    assert update.shared.shape == (2, D)
    assert [len(result.gradient) for result in update.results] == [0, 3]


@pytest.mark.parametrize(("phi", "batch", "shared"), [(0.07, 100, 7), (0.14, 50, 7), (0.55, 100, 55), (0.01, 4, 1)])
def test_the_share_is_rounded_up_and_not_further(phi, batch, shared):
    assert Sharing(phi, "mean").samples(batch) == shared


class Rooted(nn.Module):
    """Its derivative at 0 is infinite."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(D, C)

    def forward(self, x):
        return self.linear(x.abs().sqrt())


def test_a_shared_gradient_that_is_not_finite_changes_nothing():
    half, labels = Rooted(), np.arange(B, dtype=np.uint16)
    parts = [Part(name, np.full((B, D), value, np.float32), labels, 0.5) for name, value in (("a", 1), ("b", -1))]
    model = ServerModel(copy.deepcopy(half), Sgd(learning_rate=0.1))
    with pytest.raises(RemoteError, match="devices share is not finite"):
        model.step(parts, Sharing(1.0, "mean"))
    for name, value in half.state_dict().items():
        assert torch.equal(model.half.state_dict()[name], value), name


def test_running_statistics_see_the_real_smashed_data_once():
    half, parts = network(norm=True), parts_of()
    _, plain = stepped(half, parts)
    _, shared = stepped(half, parts, Sharing(0.5, "mean"))
    for name, value in plain.named_buffers():
        assert torch.equal(dict(shared.named_buffers())[name], value), name
