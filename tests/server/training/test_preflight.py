"""Mistakes that are found before any device joins."""

import msgspec
import pytest
from torch import nn

from cutlayer_core.errors import RemoteError, UserError
from cutlayer_core.samples import data
from cutlayer_core.wire.messages import Presence
from cutlayer_server.training.coordinator import Coordinator
from cutlayer_server.training.preflight import check_last_batches
from harness import digits_trial


class Misfit(nn.Module):
    """What follows the stem expects other features than it gives."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(7, 10)

    def forward(self, x):
        return self.head(self.stem(x).flatten(1))


@pytest.fixture
def trial(digits):
    return digits_trial(digits)


@pytest.fixture
def test_set(digits, trial):
    return data.load(digits / "test.npz", trial.model.input, part="test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cut": "head"}, "model.cut: 'head' is not the only|nothing to train on the server"),
        ({"factory": f"{__name__}:Misfit"}, r"the model does not accept float32 of shape \[1, 8, 8\]"),
        ({"kwargs": {"classes": 9}}, "data.test: found the class number 9, the model has 9 classes"),
    ],
)
def test_a_model_that_does_not_fit_is_the_users_mistake(trial, test_set, change, message):
    changed = msgspec.structs.replace(trial, model=msgspec.structs.replace(trial.model, **change))
    with pytest.raises(UserError, match=message):
        Coordinator(changed, test_set)


def test_a_batch_that_no_message_can_hold_is_the_users_mistake(trial, test_set):
    changed = msgspec.structs.replace(trial, data=msgspec.structs.replace(trial.data, batch_size=10**6))
    with pytest.raises(UserError, match=r"data\.batch_size: a batch is 256 MB up, allowed: up to 66 MB"):
        Coordinator(changed, test_set)


class Normalised(nn.Module):
    """What follows the stem cannot train on a single sample."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(144, 10), nn.BatchNorm1d(10))

    def forward(self, x):
        return self.head(self.stem(x))


class NormalisedStem(nn.Module):
    """The part before the cut cannot train on a single sample; ``traced`` code has to be traced to operations."""

    def __init__(self, traced=False):
        super().__init__()
        self.traced = traced
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        if self.traced and x.shape[0] * x.shape[1] < 0:
            return x
        return self.head(self.stem(x))


@pytest.mark.parametrize(
    ("factory", "kwargs", "reason"),
    [
        ("Normalised", {}, "the server-side model cannot train: Expected more than 1 value per channel"),
        ("NormalisedStem", {}, "the client-side model cannot train: Expected more than 1 value per channel"),
        (
            "NormalisedStem",
            {"traced": True},
            "the client-side model cannot train: its running statistics are no numbers",
        ),
    ],
)
def test_a_last_batch_on_which_a_half_cannot_train_is_found_before_the_training(
    trial, test_set, factory, kwargs, reason
):
    model = msgspec.structs.replace(trial.model, factory=f"{__name__}:{factory}", kwargs=kwargs)
    changed = msgspec.structs.replace(trial, model=model)
    coordinator = Coordinator(changed, test_set)
    births = {name: Presence(device=name, online=True, epoch=1, samples=n) for name, n in (("a", 64), ("b", 65))}
    arguments = (changed, coordinator._client, coordinator._untrained)
    check_last_batches(*arguments, {"a": births["a"]})
    with pytest.raises(
        RemoteError, match=rf"data\.batch_size: found 32, which leaves 1 of the 65 samples of b .*{reason}"
    ) as refused:
        check_last_batches(*arguments, births)
    assert refused.value.device == "b"  # the others go on


def test_a_good_trial_passes(trial, test_set):
    Coordinator(trial, test_set)
