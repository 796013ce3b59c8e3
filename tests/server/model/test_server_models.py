import copy

import numpy as np
import torch
from torch import nn

from cutlayer_core.trial.optimizers import Sgd
from cutlayer_server.model.server_model import Part
from cutlayer_server.model.server_models import ServerModels

SETTINGS = Sgd(learning_rate=0.1, momentum=0.9)


def part(device, seed):
    random = np.random.default_rng(seed)
    return Part(device, random.standard_normal((8, 6)).astype(np.float32), random.integers(0, 3, 8).astype(np.uint16))


def half():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def equal(found, wanted):
    return all(torch.equal(found[name], value) for name, value in wanted.items())


def test_without_copies_all_train_one_model():
    models = ServerModels(half(), SETTINGS)
    assert models.of("a") is models.of("b")


def test_copies_train_apart_and_are_averaged_by_samples():
    first, models = half(), ServerModels(half(), SETTINGS, copies=True)
    for device, seeds in (("a", (1, 2, 3)), ("b", (4,))):
        for seed in seeds:
            models.of(device).step([part(device, seed)])
    alone = {}
    for device, seeds in (("a", (1, 2, 3)), ("b", (4,))):
        model = ServerModels(copy.deepcopy(first), SETTINGS).of(device)
        for seed in seeds:
            model.step([part(device, seed)])
        alone[device] = model.half.state_dict()
    models.merge({"a": 24, "b": 8})
    found = models._half.state_dict()
    for name in ("0.weight", "1.running_mean", "2.bias"):
        torch.testing.assert_close(found[name], 0.75 * alone["a"][name] + 0.25 * alone["b"][name])
    assert found["1.num_batches_tracked"] == 3
    assert equal(models.of("a").half.state_dict(), found), "the next epoch begins with the mean"


def test_copies_go_on_from_their_state_to_the_last_bit():
    models = ServerModels(half(), SETTINGS, copies=True)
    for device in ("a", "b"):
        models.of(device).step([part(device, 1)])
    again = ServerModels(half(), SETTINGS, copies=True)
    again.restore(models.state())
    for each in (models, again):
        for device in ("a", "b"):
            each.of(device).step([part(device, 2)])
        each.merge({"a": 1, "b": 2})
    assert equal(again._half.state_dict(), models._half.state_dict())
