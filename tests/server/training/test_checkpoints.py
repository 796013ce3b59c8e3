"""Which checkpoint is gone on with."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from cutlayer_core.errors import CutlayerError
from cutlayer_core.trial.optimizers import Adam, Sgd
from cutlayer_core.wire.messages import Position, Presence
from cutlayer_server.model.server_model import Part, ServerModel
from cutlayer_server.training.checkpoints import Checkpoint, Checkpoints, Totals
from cutlayer_server.training.epoch import ClientWeights, EpochProgress
from cutlayer_server.training.selection import History


def checkpoint(step, run=7):
    weights = ClientWeights({"w": np.full(3, step, np.float32), "n": np.array(step)}, {"b": {"w": np.zeros(2)}})
    state = EpochProgress(2, weights)
    state.steps["a"], state.samples["a"] = step, 4 * step
    state.returned["b"] = {"w": np.ones(3, np.float32)}
    totals = Totals(events=10 * step, spent_s=1.5, up_bytes=1, down_bytes=2, phases_s={"train": 0.5})
    history = History([0.25], {"a": [0.5]}, {"a": 1})
    return Checkpoint(run, history, state, {"a": Position(2, step)}, {"half/w": torch.full((2,), step)}, totals)


def device(*steps, run=7, name="a"):
    held = tuple(Position(2, step) for step in steps)
    return Presence(device=name, online=True, epoch=1, run=run, held=held)


@pytest.fixture
def checkpoints(tmp_path):
    found = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2, 3):
        found.write(checkpoint(step))
    return found


def test_what_was_written_is_read_to_the_last_bit(checkpoints):
    found, wanted = checkpoints.newest_held_by({"a": device(3)}, events=99), checkpoint(3)
    assert (found.run, found.history, found.positions, found.totals) == (
        7,
        wanted.history,
        wanted.positions,
        wanted.totals,
    )
    assert (found.progress.epoch, found.progress.steps, found.progress.samples) == (2, {"a": 3}, {"a": 12})
    np.testing.assert_array_equal(found.progress.weights.common["w"], wanted.progress.weights.common["w"])
    np.testing.assert_array_equal(found.progress.weights.own["b"]["w"], np.zeros(2))
    assert found.progress.weights.common["n"].shape == ()
    np.testing.assert_array_equal(found.progress.returned["b"]["w"], np.ones(3))
    assert torch.equal(found.model["half/w"], wanted.model["half/w"])


def test_the_newest_that_all_hold_is_taken_and_later_ones_are_removed(checkpoints):
    assert checkpoints.newest_held_by({"a": device(2)}, events=99).progress.steps["a"] == 2
    assert checkpoints.newest_held_by({"a": device(2, 3)}, events=99).progress.steps["a"] == 2


def test_a_device_that_never_trained_can_go_on_from_any(checkpoints):
    assert (
        checkpoints.newest_held_by({"a": device(3), "b": device(name="b", run=0)}, events=99).progress.steps["a"] == 3
    )


@pytest.mark.parametrize("lacking", [device(1), device(2, 3, run=8), device()])
def test_a_device_that_lost_its_states_is_named(checkpoints, lacking):
    with pytest.raises(CutlayerError, match="a does not hold the state that this run needs of it"):
        checkpoints.newest_held_by({"a": lacking}, events=99)


def test_one_that_is_ahead_of_the_record_is_passed_over(checkpoints):
    assert checkpoints.newest_held_by({"a": device(2, 3)}, events=29).progress.steps["a"] == 2


def test_a_damaged_one_is_passed_over(checkpoints):
    newest = max(checkpoints._folder.iterdir())
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(damaged)
    assert checkpoints.newest_held_by({"a": device(2, 3)}, events=99).progress.steps["a"] == 2


def test_two_are_kept_and_half_written_ones_removed(checkpoints):
    (checkpoints._folder / "x.part").write_bytes(b"half")
    checkpoints.write(checkpoint(4))
    assert len(list(checkpoints._folder.iterdir())) == 2


def test_there_may_be_none(tmp_path):
    assert Checkpoints(tmp_path / "none").newest_held_by({"a": device()}, events=0) is None


class Half(nn.Module):
    """With everything that changes in training: weights, running statistics, a buffer that no state dict has, dropout."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear, self.dropout = nn.BatchNorm1d(6), nn.Linear(6, 3), nn.Dropout(0.5)
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x):
        self.scale.mul_(1.1)
        return self.linear(self.dropout(self.norm(x))) * self.scale


@pytest.mark.parametrize(
    "settings", [Sgd(learning_rate=0.1, momentum=0.9), Adam(learning_rate=0.1)], ids=["sgd", "adam"]
)
def test_a_server_half_goes_on_from_its_state_to_the_last_bit(settings):
    x, labels = np.random.default_rng(1).standard_normal((6, 8, 6), np.float32), np.arange(8, dtype=np.uint16) % 3
    torch.manual_seed(1)
    first = ServerModel(Half(), settings)
    for batch in x[:3]:
        first.step([Part("a", batch, labels)]).results[0]
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    wanted = [first.step([Part("a", batch, labels)]).results[0] for batch in x[3:]]
    torch.manual_seed(2)
    second = ServerModel(Half(), settings)
    second.restore(state)
    for batch, result in zip(x[3:], wanted, strict=True):
        found = second.step([Part("a", batch, labels)]).results[0]
        assert found.loss == result.loss
        np.testing.assert_array_equal(found.gradient, result.gradient)


def test_a_checkpoint_has_the_keys_that_servers_of_before_read_and_wrote(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(checkpoint(1))
    (path,) = tmp_path.glob("*.safetensors")
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    about = json.loads(header["__metadata__"]["about"])
    assert set(about) == {"run", "past", "positions", "books", "epoch", "steps", "samples", "returned", "own"}
    assert set(about["past"]) == {"losses", "client_losses", "kept", "modes", "chosen"}
