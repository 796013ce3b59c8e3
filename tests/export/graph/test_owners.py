"""An error names the module that an operation comes from, not another one with the same operation."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from client_cases import client
from clients import certified, certified_cut
from cutlayer_core.errors import UserError
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_export.graph.form import Form

VECTOR = InputSpec(shape=(8,))
TFLITE = Form("tflite")


class Spherical(nn.Module):
    """Its Bessel function has no counterpart; its matrix is transposed, as that of a linear layer is."""

    def forward(self, x):
        return torch.special.bessel_j0(x.t()).t()


class Around(nn.Module):
    """Calls the function in its own code."""

    def __init__(self, hard=False):
        super().__init__()
        self.first, self.odd, self.last, self.head = nn.Linear(8, 8), Spherical(), nn.Linear(8, 8), nn.Linear(8, 2)
        self.hard = hard

    def forward(self, x):
        if self.hard and x.shape[0] * x.shape[1] < 0:
            return x
        return self.head(self.last(self.odd(self.first(x))))


class Own(Around):
    def forward(self, x):
        return self.head(self.last(torch.special.bessel_j0(self.first(x))))


class Smaller(nn.Module):
    """ONNX has this operation, but not its gradient."""

    def forward(self, x):
        return functional.interpolate(x, (5, 5), mode="bilinear", antialias=True)


@pytest.mark.parametrize("form", [Form(), TFLITE], ids=["onnx", "tflite"])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Around(), r"bessel_j0.*\(in the module 'odd'\)"),
        (Around(hard=True), r"bessel_j0.*\(in the module 'odd'\)"),
        (Own(), r"bessel_j0.*\(in the model's own code\)"),
    ],
    ids=["modules", "operations", "own code"],
)
def test_the_module_named_is_the_one_with_the_operation(model, message, form):
    with pytest.raises(UserError, match=message):
        certified_cut(model, "last", VECTOR, form)


def test_of_two_modules_with_one_operation_the_one_that_is_refused_is_named():
    volume = [nn.Conv2d(3, 4, 1), nn.Unflatten(1, (2, 2)), nn.Conv3d(2, 2, 1), nn.Flatten(1)]
    with pytest.raises(UserError, match=r"aten\.convolution.*\(in the module '2'\)"):
        certified(client(volume), form=TFLITE)


def test_a_step_of_the_backward_pass_belongs_to_the_module_that_made_it():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh(), Smaller(), nn.Conv2d(3, 3, 1))
    with pytest.raises(UserError, match=r"bilinear2d_aa_backward \(in the module '2'\)"):
        certified(model)
