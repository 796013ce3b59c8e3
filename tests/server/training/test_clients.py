"""Whole trials with clients other than the demo's: other optimizers, dropout, frozen ones."""

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.codecs import Codecs, Raw
from cutlayer_core.errors import UserError
from cutlayer_core.record.events import EpochDone
from cutlayer_core.samples import data
from cutlayer_core.schedules import Forward
from cutlayer_core.trial.optimizers import Adam
from cutlayer_core.trial.trial import Optimizers, read_trial
from cutlayer_cut import build_model
from cutlayer_export import export_bundle
from harness import digits_trial, run_trial, shares

RAW = Codecs(up=Raw(), down=Raw())


class Dropping(nn.Module):
    """A client with dropout and BatchNorm."""

    def __init__(self):
        super().__init__()
        self.client = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.MaxPool2d(2)
        )
        self.server = nn.Sequential(nn.Flatten(), nn.Linear(128, 10))

    def forward(self, x):
        return self.server(self.client(x))


def exported(trial, tmp_path):
    export_bundle(trial.recipe, tmp_path / "client.zip")
    return read_bundle(tmp_path / "client.zip")


def test_adam_on_both_sides_equals_unsplit_training(digits, tmp_path):
    adam = Adam(learning_rate=0.003, clip_norm=1e6)
    trial = digits_trial(
        digits, devices=("board-1",), epochs=2, codec=RAW, optimizer=Optimizers(client=adam, server=adam)
    )
    run_trial(digits, trial, tmp_path / "run", bundle=exported(trial, tmp_path))
    model = build_model(trial.model, trial.seeds.weights)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    prepare = data.Preparation(trial.model.input, trial.data.mean, trial.data.std)
    (samples,) = shares(digits, trial).values()
    for epoch in range(2):
        for x, y in data.batches(samples, prepare, 32, (trial.seeds.data, 0, epoch), trial.data.augmentation):
            optimizer.zero_grad()
            cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y.astype(np.int64))).backward()
            optimizer.step()
    found = load_file(tmp_path / "run" / "model.safetensors")
    for name, value in model.state_dict().items():
        # Adam turns rounding noise in a gradient into whole steps of 0.003, so entries may part; most must not.
        assert float((found[name] - value).abs().median()) < 1e-4, name


def test_a_client_with_dropout_learns_and_equal_seeds_give_equal_runs(digits, tmp_path):
    model = msgspec.structs.replace(
        read_trial(digits / "trial.toml").model, factory=f"{__name__}:Dropping", cut="client"
    )
    trial = digits_trial(digits, epochs=4, model=model)
    bundle = exported(trial, tmp_path)
    accuracies = []
    for name in ("first", "second"):
        run, _ = run_trial(digits, trial, tmp_path / name, bundle=bundle)
        accuracies.append([each.test_accuracy for each in run.all(EpochDone)])
    assert accuracies[0][-1] > 0.9
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert int(first["client.1.num_batches_tracked"]) > 0


def test_a_frozen_client_sends_smashed_data_only(digits, tmp_path):
    model = msgspec.structs.replace(read_trial(digits / "trial.toml").model, trainable="none")
    trial = digits_trial(digits, epochs=3, model=model, schedule=Forward())
    run, _ = run_trial(digits, trial, tmp_path / "run", bundle=exported(trial, tmp_path))
    initial = build_model(trial.model, trial.seeds.weights).state_dict()
    found = load_file(tmp_path / "run" / "model.safetensors")
    for name, value in initial.items():
        assert torch.equal(found[name], value) is name.startswith("stem."), name
    assert run.summary.down_payload_bytes == 0
    assert run.all(EpochDone)[-1].test_accuracy > 0.7


def test_a_frozen_client_refuses_a_schedule_that_exchanges(digits):
    text = (digits / "trial.toml").read_text().replace('cut = "stem"', 'cut = "stem"\ntrainable = "none"')
    (digits / "frozen.toml").write_text(text)
    with pytest.raises(UserError, match=r"schedule.id: found 'every', allowed: 'forward', 'replay', for model.*'none'"):
        read_trial(digits / "frozen.toml")
