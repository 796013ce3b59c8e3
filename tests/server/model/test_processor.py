"""Where the server-side half runs. With an accelerator: TORCH_DEVICE=cuda pytest tests/server."""

import numpy as np
import pytest
import torch
from torch import nn

from cutlayer_core.errors import UserError
from cutlayer_core.record.events import EpochDone, Started
from cutlayer_core.trial.optimizers import Sgd
from cutlayer_server.model.processor import CPU, name_of, place_of, processor
from cutlayer_server.model.server_model import Part, ServerModel
from harness import PLACE, digits_trial, run_trial


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", ""])
def test_what_is_not_there_is_refused_by_name(name):
    with pytest.raises(UserError, match=f"--torch-device: found '{name}', which this torch cannot use here: "):
        processor(name)


def test_modules_without_parameters_are_on_the_cpu():
    assert place_of(nn.Identity(), nn.ReLU()) == CPU
    assert place_of(nn.Identity(), nn.Linear(1, 1).to(PLACE)).type == PLACE.type


def test_a_trial_learns_there_and_says_where_it_was(digits, tmp_path):
    run, _ = run_trial(digits, digits_trial(digits, epochs=4), tmp_path)
    assert run.all(Started)[0].processor == name_of(PLACE)
    assert run.all(EpochDone)[-1].test_accuracy > 0.9


def test_a_model_goes_on_from_its_state_with_the_same_random_numbers():
    torch.manual_seed(0)
    first = ServerModel(nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3)).to(PLACE), Sgd(learning_rate=0.1, momentum=0.9))
    part = Part("a", np.ones((8, 6), np.float32), np.zeros(8, np.uint16))
    first.step([part])
    state = first.state()
    assert all(tensor.device == CPU for tensor in state.values())
    wanted = [first.step([part]).results[0].loss for _ in range(3)]
    first.restore(state)
    assert [first.step([part]).results[0].loss for _ in range(3)] == wanted
