"""Split training with the raw codec is the training that torch would do without a split, a wire or a board."""

import copy
from statistics import mean

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from cutlayer_core.codecs import Codecs, Fp8, Raw
from cutlayer_core.record.events import EpochDone
from cutlayer_core.samples import data
from cutlayer_core.trial.aggregation import Sequential, SplitFed
from cutlayer_cut import build_model, cut_model
from harness import digits_trial, run_trial, shares

EPOCHS = 3
RAW = Codecs(up=Raw(), down=Raw())


def sgd(parameters, settings):
    return torch.optim.SGD(parameters, lr=settings.learning_rate, momentum=settings.momentum)


def batches(trial, samples, client, epoch):
    prepare = data.Preparation(trial.model.input, trial.data.mean, trial.data.std)
    seed = (trial.seeds.data, client, epoch)
    for x, y in data.batches(samples, prepare, trial.data.batch_size, seed, trial.data.augmentation):
        yield torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))


def step(model, optimizers, x, y):
    for optimizer in optimizers:
        optimizer.zero_grad()
    cross_entropy(model(x), y).backward()
    for optimizer in optimizers:
        optimizer.step()


def greatest_difference(found, wanted):
    """Greatest relative difference over all parameters, each relative to its greatest entry."""
    assert found.keys() == wanted.keys()
    return max(float((found[name] - value).abs().max() / value.abs().max()) for name, value in wanted.items())


def test_one_device_equals_unsplit_training(digits, tmp_path):
    trial = digits_trial(digits, devices=("board-1",), epochs=EPOCHS, codec=RAW)
    run_trial(digits, trial, tmp_path / "run")
    model = build_model(trial.model, trial.seeds.weights)
    optimizer = sgd(model.parameters(), trial.optimizer.server)
    (samples,) = shares(digits, trial).values()
    for epoch in range(EPOCHS):
        for x, y in batches(trial, samples, 0, epoch):
            step(model, [optimizer], x, y)
    assert greatest_difference(load_file(tmp_path / "run" / "model.safetensors"), model.state_dict()) < 1e-4


def test_two_devices_in_sequence_equal_the_same_order_in_torch(digits, tmp_path):
    """The weights are relayed; each device keeps the momentum of its own optimizer."""
    trial = digits_trial(digits, epochs=EPOCHS, codec=RAW, aggregation=Sequential())
    run_trial(digits, trial, tmp_path / "run")
    client, server = cut_model(trial.recipe)
    server_optimizer = sgd(server.parameters(), trial.optimizer.server)
    client_optimizers = [sgd(client.parameters(), trial.optimizer.client) for _ in trial.devices]
    model = torch.nn.Sequential(client, server)
    for epoch in range(EPOCHS):
        for number, samples in enumerate(shares(digits, trial).values()):
            for x, y in batches(trial, samples, number, epoch):
                step(model, [client_optimizers[number], server_optimizer], x, y)
    wanted = client.state_dict() | server.state_dict()
    assert greatest_difference(load_file(tmp_path / "run" / "model.safetensors"), wanted) < 1e-4


def test_two_devices_averaged_equal_the_same_order_in_torch(digits, tmp_path):
    trial = digits_trial(digits, epochs=EPOCHS, codec=RAW, aggregation=SplitFed())
    run_trial(digits, trial, tmp_path / "run")
    client, server = cut_model(trial.recipe)
    clients = [copy.deepcopy(client) for _ in trial.devices]
    optimizers = [sgd(each.parameters(), trial.optimizer.client) for each in clients]
    server_optimizer = sgd(server.parameters(), trial.optimizer.server)
    samples = list(shares(digits, trial).values())
    counts = torch.tensor([len(each.y) for each in samples], dtype=torch.float64)
    for epoch in range(EPOCHS):
        passes = [list(batches(trial, each, number, epoch)) for number, each in enumerate(samples)]
        for turn in range(max(map(len, passes))):
            for number, each in enumerate(passes):
                if turn < len(each):
                    model = torch.nn.Sequential(clients[number], server)
                    step(model, [optimizers[number], server_optimizer], *each[turn])
        for parameters in zip(*(each.parameters() for each in clients), strict=True):
            mean = sum(p.detach().double() * share for p, share in zip(parameters, counts / counts.sum(), strict=True))
            for parameter in parameters:
                parameter.data.copy_(mean)
    wanted = clients[0].state_dict() | server.state_dict()
    assert greatest_difference(load_file(tmp_path / "run" / "model.safetensors"), wanted) < 1e-4


@pytest.mark.parametrize("aggregation", [Sequential(), SplitFed()], ids=["sequential", "splitfed"])
def test_equal_seeds_give_equal_runs_to_the_last_bit(digits, tmp_path, aggregation):
    trial = digits_trial(digits, epochs=2, aggregation=aggregation)
    for name in ("first", "second"):
        run_trial(digits, trial, tmp_path / name)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fp8_both_ways_stays_within_one_point_of_raw(digits, tmp_path):
    accuracies = {}
    for name, codecs in (("raw", RAW), ("fp8", Codecs(up=Fp8(), down=Fp8()))):
        run, _ = run_trial(digits, digits_trial(digits, epochs=24, codec=codecs), tmp_path / name)
        # Of many epochs, since from one to the next it varies by two points.
        accuracies[name] = mean(each.test_accuracy for each in run.all(EpochDone)[-12:])
    assert accuracies["raw"] > 0.95
    assert accuracies["fp8"] >= accuracies["raw"] - 0.01
