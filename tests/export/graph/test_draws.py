"""Noise by seed: distributed as torch's, the same in torch and on both engines, and refused where it cannot be."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clients import certified
from cutlayer_core.errors import UserError
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_export.graph.draws import SeededDraws
from cutlayer_export.graph.form import Form

VECTOR = InputSpec(shape=(8,))
NOISES = {
    "randn": lambda y: y + 0.3 * torch.randn(y.shape[0], 8),
    "rand_like": lambda y: y * torch.rand_like(y),
    "uniform_": lambda y: y + torch.empty_like(y).uniform_(-0.1, 0.2),
    "normal_": lambda y: y + torch.zeros_like(y).normal_(1.0, 0.2),
    "Gumbel": lambda y: F.gumbel_softmax(y, tau=0.7),
    "Gumbel, hard": lambda y: F.gumbel_softmax(y, tau=0.7, hard=True),
    "reparameterized": lambda y: torch.distributions.Normal(y, F.softplus(y) + 0.1).rsample(),
    "bernoulli of probabilities": lambda y: y * torch.bernoulli(torch.sigmoid(y).detach()),
    "randint": lambda y: y + torch.randint(0, 3, y.shape),
}


class Noisy(nn.Module):
    """Draws between two layers, in eval mode too if it is ``restless``."""

    def __init__(self, noise, restless=False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 5)
        self.noise, self.restless = noise, restless

    def forward(self, x):
        y = self.first(x)
        return self.second(self.noise(y) if self.training or self.restless else y)


@pytest.mark.parametrize("engine", ["onnx", "tflite"])
@pytest.mark.parametrize("name", NOISES)
def test_noise_is_trained_with_the_seed_of_each_step(name, engine):
    assert certified(Noisy(NOISES[name]), VECTOR, form=Form(engine)).valid


@pytest.mark.parametrize(
    ("noise", "restless", "message"),
    [
        (NOISES["randn"], True, "draws random numbers in eval mode, too"),
        (lambda y: F.dropout(y, 0.3), True, "draws random numbers in eval mode, too"),
        (lambda y: y[torch.randperm(y.shape[0])], False, r"random numbers of aten\.randperm"),
        (lambda y: F.rrelu(y, training=True), False, r"random numbers of aten\.rrelu_with_noise"),
    ],
)
def test_draws_that_an_export_cannot_repeat_are_refused(noise, restless, message):
    with pytest.raises(UserError, match=message):
        certified(Noisy(noise, restless), VECTOR)


DRAWN = {
    "rand": lambda x: torch.rand(x.shape),
    "rand_like": torch.rand_like,
    "randn": lambda x: torch.randn(x.shape, dtype=torch.float64),
    "randn_like": torch.randn_like,
    "randint": lambda x: torch.randint(0, 3, x.shape),
    "randint from -2": lambda x: torch.randint(-2, 3, x.shape),
    "randint as floats": lambda x: torch.randint(5, x.shape, dtype=torch.float32),
    "randint_like": lambda x: torch.randint_like(x, 4),
    "randint_like from 2": lambda x: torch.randint_like(x, 2, 7),
    "uniform_": lambda x: torch.empty_like(x).uniform_(-1.0, 3.0),
    "normal_": lambda x: torch.empty_like(x).normal_(2.0, 0.3),
    "normal of tensors": lambda x: torch.normal(x + 1.0, x + 2.0),
    "normal of means": lambda x: torch.normal(x - 1.0, 0.5),
    "normal of deviations": lambda x: torch.normal(3.0, x + 0.5),
    "exponential_": lambda x: torch.empty_like(x).exponential_(2.0),
    "bernoulli": lambda x: torch.bernoulli(x + 0.3),
    "bernoulli_": lambda x: torch.empty_like(x).bernoulli_(0.2),
    "bernoulli_ of probabilities": lambda x: torch.empty_like(x).bernoulli_(x + 0.7),
}


@pytest.mark.parametrize("name", DRAWN)
def test_numbers_are_distributed_as_those_of_torch(name):
    """Torch with its own generator says what type, mean and deviation they have, and between what they lie."""
    zeros = torch.zeros(1000, 1000)
    torch.manual_seed(0)
    wanted = DRAWN[name](zeros)
    with SeededDraws(7):
        found = DRAWN[name](zeros)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    found, wanted = found.double(), wanted.double()
    assert float(found.mean()) == pytest.approx(float(wanted.mean()), abs=0.01 * float(wanted.std()))
    assert float(found.std()) == pytest.approx(float(wanted.std()), rel=0.01)
    for share in (0.05, 0.5, 0.95):
        own, others = (float(each.flatten()[::97].quantile(share)) for each in (found, wanted))
        assert own == pytest.approx(others, abs=0.1 * float(wanted.std())), share
    if len(wanted.unique()) < 20:
        assert found.unique().tolist() == wanted.unique().tolist()


def test_draws_of_one_pass_are_independent():
    with SeededDraws(7):
        first, second = torch.randn(1000, 1000), torch.randn(1000, 1000)
    assert abs(float((first * second).mean())) < 5e-3
    assert abs(float((first * torch.roll(first, 1, 1)).mean())) < 5e-3
