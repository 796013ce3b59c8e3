"""What rounding decides is told from mistakes: an engine may round otherwise, and may not compute something else."""

import numpy as np
import pytest
import torch
from torch import nn

from clients import certified as exported
from clients import described
from cutlayer_core.trial.optimizers import Sgd
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_cut import UpToCut
from cutlayer_export.certificate import certificate
from cutlayer_export.certificate.distance import errors_of
from cutlayer_export.errors import CertificateError
from cutlayer_export.graph.form import Graphs

INPUTS, HIDDEN, OUTPUTS = 8, 32768, 4
PLAIN = Sgd(learning_rate=0.05)


class Engine:
    """Trains Linear, ReLU, Linear in float64, but for a ReLU's inputs, which are off by ``rounding`` at most."""

    def __init__(self, rounding: float, factor: float = 1.0) -> None:
        self._rounding, self._factor = rounding, factor
        self._random = np.random.default_rng(0)

    def inference(self, values):
        return {"z": self._layers(values)[1].astype(np.float32)}

    def forward(self, values):
        return self.inference(values)

    def backward(self, values):
        x, g = values["x"].astype(np.float64), values["g"].astype(np.float64)
        y, _ = self._layers(values)
        dy = (g @ values["params.2.weight"]) * (y > 0) * self._factor
        found = {"0.weight": dy.T @ x, "0.bias": dy.sum(0), "2.weight": g.T @ np.maximum(y, 0), "2.bias": g.sum(0)}
        rate = float(values["learning_rate"])
        new = {f"new_params.{name}": values[f"params.{name}"] - rate * value for name, value in found.items()}
        results = {f"gradients.{name}": value for name, value in found.items()} | new
        return {name: value.astype(np.float32) for name, value in results.items()}

    def _layers(self, values):
        y = values["x"].astype(np.float64) @ values["params.0.weight"].T + values["params.0.bias"]
        y = y + self._rounding * self._random.uniform(-1, 1, y.shape)
        return y, np.maximum(y, 0) @ values["params.2.weight"].T + values["params.2.bias"]


def certified(engine, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUTPUTS))
    client, _, values = described(model, InputSpec(shape=(INPUTS,)), PLAIN, "all")
    arrays = {name: value.numpy() for name, value in values.items()}
    graphs = Graphs(engine.inference, engine.forward, engine.backward)
    return certificate.certify(UpToCut(model, "none"), model, "all", client, arrays, graphs)


def test_an_engine_that_rounds_otherwise_is_certified_and_the_draws_that_rounding_decided_are_counted():
    found = [certified(Engine(rounding=4e-6), seed) for seed in (0, 2)]
    assert all(each.valid for each in found)
    assert sum(each.redrawn for each in found) > 10


@pytest.mark.parametrize("factor", [0.98, 1.0002])
def test_a_gradient_that_is_too_long_or_too_short_is_refused(factor):
    with pytest.raises(CertificateError, match=r"gradients\.0\.\w+ differs from torch"):
        certified(Engine(rounding=4e-6, factor=factor))


def test_a_bias_before_batch_norm_whose_gradient_is_all_rounding_is_no_reason_to_refuse():
    module = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
    assert exported(module, InputSpec(shape=(3, 48, 48))).valid


def test_a_tensor_that_is_zero_in_float64_is_measured_by_the_greatest_of_its_kind():
    wanted = {
        "gradients.a": torch.tensor([2.0], dtype=torch.float64),
        "gradients.b": torch.tensor([1e-16], dtype=torch.float64),
    }
    found = {"gradients.a": np.float32([2]), "gradients.b": np.float32([4e-6])}
    assert errors_of(found, wanted)["gradients.b"] == pytest.approx(2e-6)
    found["gradients.b"] = np.float32([4e-3])
    assert errors_of(found, wanted)["gradients.b"] > 1e-4
