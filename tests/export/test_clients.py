"""Clients of many kinds, exported, run by onnxruntime, and compared with torch autograd by the certificate."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from client_cases import CLIENTS, OPTIMIZERS, OTHERS, client, each
from clients import SGD, certified, described, graphs_of
from cutlayer_core.bundles.certificate import TOLERANCE
from cutlayer_core.errors import UserError
from cutlayer_core.trial.optimizers import Adam, Sgd
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_cut import UpToCut
from cutlayer_export.certificate.certificate import certify
from cutlayer_export.certificate.distance import Drifts, errors_of, floor_of
from cutlayer_export.errors import CertificateError


@pytest.mark.parametrize("name", each(CLIENTS))
def test_an_image_client_trains_on_onnxruntime_as_in_torch(name):
    assert certified(client(CLIENTS[name])).valid


@pytest.mark.parametrize("name", each(OTHERS))
def test_any_other_client_trains_on_onnxruntime_as_in_torch(name):
    spec, modules = OTHERS[name]
    assert certified(client(modules), spec).valid


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_steps_as_in_torch(name):
    modules = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    certificate = certified(client(modules), optimizer=OPTIMIZERS[name])
    assert certificate.valid
    assert {name.split(".")[0] for name in certificate.errors} >= {"z", "gradients", "params", "buffers"}


class NotANumber(nn.Module):
    """Its gradient is not a number, though its result is."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, x):
        y = self.layer(x)
        return y + (y - y).sqrt()


@pytest.mark.parametrize(("times", "passes"), [(3.9, True), (4.1, False)])
def test_an_error_of_up_to_four_times_torchs_own_passes(times, passes):
    exact = {"gradients.w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    own = torch.tensor([0.1, 0.0], dtype=torch.float64)
    floors = {"gradients.w": floor_of(exact["gradients.w"] + own, exact["gradients.w"])}
    found = {"gradients.w": (exact["gradients.w"] + times * own).numpy()}
    assert (errors_of(found, exact, floors)["gradients.w"] <= TOLERANCE) is passes


@pytest.mark.parametrize(("times", "found"), [(1.0, False), (1.003, True), (0.997, True)])
def test_a_drift_is_told_from_noise_that_is_greater(times, found):
    random, drifts = torch.Generator().manual_seed(0), Drifts()
    for _ in range(6):
        wanted = torch.randn(5000, generator=random, dtype=torch.float64)
        noise = [0.01 * torch.randn(5000, generator=random, dtype=torch.float64) for _ in range(2)]
        drifts.add({"w": (times * wanted + noise[0]).numpy()}, {"w": wanted + noise[1]}, {"w": wanted})
    assert (drifts.excess("w") > TOLERANCE) is found


@pytest.mark.slow
def test_a_gradient_that_is_a_little_too_long_is_refused_where_rounding_flips_relus():
    layers = [(nn.Conv2d(16 if at else 3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()) for at in range(8)]
    torch.manual_seed(0)
    module, spec, plain = nn.Sequential(*sum(layers, ())), InputSpec(shape=(3, 16, 16)), Sgd(learning_rate=0.05)
    client, _, values = described(module, spec, plain)
    arrays = {name: value.numpy() for name, value in values.items()}
    graphs = graphs_of(module, spec, plain).graphs

    def longer(given):
        found = dict(graphs.backward(given))
        before, after = given["params.0.weight"], found["new_params.0.weight"]
        found["gradients.0.weight"] = found["gradients.0.weight"] * np.float32(1.003)
        return found | {"new_params.0.weight": before + (after - before) * np.float32(1.003)}

    assert certify(UpToCut(module, "none"), module, "all", client, arrays, graphs).valid
    with pytest.raises(CertificateError, match="differs from torch by"):
        certify(UpToCut(module, "none"), module, "all", client, arrays, graphs._replace(backward=longer))


def test_what_is_not_a_number_is_never_certified():
    with pytest.raises(CertificateError, match="differs from torch by inf"):
        certified(NotANumber(), InputSpec(shape=(12,)))


def test_backward_uses_the_buffers_that_forward_read():
    """Spectral norm's weight depends on vectors that every forward pass replaces."""
    module = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(12, 4)), nn.Tanh())
    graphs = graphs_of(module, InputSpec(shape=(12,)))
    inputs = {each.name for each in onnx.load_from_string(graphs.files["backward"]).graph.input}
    assert not any(name.startswith("buffers.") for name in inputs)
    assert certified(module, InputSpec(shape=(12,))).valid


class Tiny(nn.Module):
    """Divides by what is zero but for the smallest of constants."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = torch.relu(self.layer(x)) - torch.relu(-self.layer(x) - 100.0)
        return y / (y.norm(dim=1, keepdim=True) + 1e-12) + torch.relu(-y) / (torch.relu(-y) + 1e-9)


@pytest.mark.parametrize("optimizer", [Adam(learning_rate=0.003, epsilon=1e-10), SGD])
def test_the_smallest_of_constants_are_kept(optimizer):
    """Entries that never get a gradient are divided by Adam's epsilon alone."""
    modules = [nn.Linear(12, 4), nn.ReLU(), Tiny()]
    module = client(modules)
    with torch.no_grad():
        module[0].bias[:2] = -1000.0
    assert certified(module, InputSpec(shape=(12,)), optimizer).valid


@pytest.mark.parametrize("trainable", ["last:1", "last:2"])
def test_the_last_modules_alone_can_be_trained(trainable):
    modules = [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.Dropout(0.1),
        nn.Conv2d(4, 2, 1),
    ]
    certificate = certified(client(modules), trainable=trainable)
    trained = {name.split(".", 1)[1] for name in certificate.errors if name.startswith("params.")}
    assert trained == {
        f"{at}.{kind}" for at in (["5"] if trainable == "last:1" else ["3", "5"]) for kind in ("weight", "bias")
    }
    assert not any(name.startswith("buffers.") for name in certificate.errors)


class Partly(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen, self.used, self.unused = (
            nn.Conv2d(3, 4, 3).requires_grad_(False),
            nn.Conv2d(4, 4, 1),
            nn.Linear(2, 2),
        )

    def forward(self, x):
        return self.used(self.frozen(x))


def test_parameters_without_gradients_and_without_influence_are_constants():
    errors = certified(Partly()).errors
    assert {name for name in errors if name.startswith("params.")} == {"params.used.weight", "params.used.bias"}


def test_a_frozen_client_infers():
    certificate = certified(client([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)]), trainable="none")
    assert set(certificate.errors) == {"inference.z"}
    assert certificate.valid


class Underived(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 8, 8))

    def forward(self, x):
        return torch.special.i0(x * self.scale)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 8, 8))

    def forward(self, x):
        return x * self.scale + torch.randn_like(x)


class Nextafter(Underived):
    def forward(self, x):
        return torch.nextafter(x * self.scale, x)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([nn.Conv2d(3, 3, 1), Noisy()], r"draws random numbers in eval mode, too.*\(in the module '1'\)"),
        ([nn.Conv2d(3, 3, 1), Nextafter()], r"nextafter.*\(in the module '1'\)"),
        ([nn.Conv2d(3, 3, 1), Underived()], r"no counterpart of .*i0.*\(in the module '1'\)"),
    ],
)
def test_an_operation_that_cannot_be_trained_is_named_with_its_module(modules, message):
    with pytest.raises(UserError, match=message):
        certified(client(modules))
