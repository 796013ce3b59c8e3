"""A bundle trains what the user's whole model trains: regions without gradient, own backward passes, decisions by size."""

import pytest
import torch
from torch import nn

from client_cases import Function, client
from clients import certified, certified_cut
from cutlayer_core.errors import UserError
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_cut import Cutter, UpToCut, cut
from cutlayer_export.errors import CertificateError

VECTOR = InputSpec(shape=(6,))
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class StraightThrough(torch.autograd.Function):
    """Signs forward, the gradient as it is backward (Bengio et al., arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, g):
        return g


class Reversal(torch.autograd.Function):
    """Gradient reversal (Ganin et al., arXiv 1505.07818)."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -ctx.factor * g, None


class Spike(torch.autograd.Function):
    """A spiking neuron with a surrogate gradient (Neftci et al., arXiv 1901.09948)."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        [x] = ctx.saved_tensors
        return g / (1 + 10 * x.abs()) ** 2


class Net(nn.Module):
    """Layers with something in between; ``hard`` code cannot be traced module by module."""

    def __init__(self, between, hard=False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 2)
        self.between, self.hard = between, hard

    def forward(self, x):
        if self.hard and x.shape[1] * x.shape[0] < 0:
            return x
        return self.third(torch.tanh(self.second(self.between(self, torch.relu(self.first(x))))))


def frozen(net, y):
    with torch.no_grad():
        return net.first(torch.tanh(y[:, :6])) + 1


def hooked(net, y):
    if y.requires_grad:
        y.register_hook(lambda g: 3 * g)
    return y


KEPT = {
    "no_grad": frozen,
    "detach": lambda net, y: y + y.detach() ** 2,
    "straight through": lambda net, y: StraightThrough.apply(y),
    "reversal": lambda net, y: Reversal.apply(y, 0.5),
    "surrogate": lambda net, y: Spike.apply(y - 0.3),
}


def gradients(model, run):
    weights = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad((run(X) * weights).sum(), list(parameters.values()), allow_unused=True)
    return {name: None if each is None else each.clone() for name, each in zip(parameters, found, strict=True)}


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("name", KEPT)
def test_both_halves_give_the_gradients_of_the_whole_model(name, hard):
    model = Net(KEPT[name], hard).train()
    for place in ("first", "second") if name != "no_grad" else ("second",):
        halves = cut(model, place, X)
        wanted, found = gradients(model, model), gradients(model, nn.Sequential(*halves))
        assert wanted["third.weight"].abs().max() > 0
        for key, each in wanted.items():
            assert (each is None) == (found[key] is None), key
            assert each is None or torch.equal(each, found[key]), key


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("name", KEPT)
def test_a_bundle_is_certified_against_the_whole_model(name, hard):
    assert certified_cut(Net(KEPT[name], hard).train(), "second", VECTOR).valid


def test_what_a_region_without_gradient_freezes_is_not_trained():
    client = cut(Net(frozen).train(), "second", X).client
    with torch.enable_grad():
        z = client(X)
    found = torch.autograd.grad(z.sum(), list(client.parameters()), allow_unused=True)
    assert {name for (name, _), each in zip(client.named_parameters(), found, strict=True) if each is not None} == {
        "second.weight", "second.bias",
    }  # fmt: skip


@pytest.mark.parametrize("hard", [False, True])
def test_a_hook_that_would_be_lost_is_refused_by_the_parameter_it_changes(hard):
    with pytest.raises(UserError, match=r"'first.weight' gets another gradient than in the whole model: a hook"):
        cut(Net(hooked, hard).train(), "second", X)


def test_a_hook_on_a_parameter_is_refused():
    model = Net(KEPT["detach"])
    model.first.weight.register_hook(lambda g: 2 * g)
    with pytest.raises(UserError, match=r"the parameter 'first.weight' has a hook"):
        cut(model, "second", X)


def test_hooks_of_a_module_that_stays_whole_are_kept():
    model = Net(lambda net, y: y).train()
    model.first.register_forward_hook(lambda module, x, y: 2 * y)
    model.second.register_full_backward_hook(lambda module, given, got: (3 * given[0],))
    assert certified_cut(model, "second", VECTOR).valid


class Differentiated(nn.Module):
    """The first half of `Net`, differentiated through the sign, where the user's model passes the gradient on."""

    def __init__(self, net):
        super().__init__()
        self.first, self.second = net.first, net.second

    def forward(self, x):
        return self.second(torch.sign(torch.relu(self.first(x))))


def test_a_half_that_has_lost_a_backward_pass_is_not_certified():
    model = Net(KEPT["straight through"]).train()
    assert certified(Differentiated(model), VECTOR).valid
    with pytest.raises(CertificateError, match=r"gradients\.first\.weight differs from torch by 1.0e"):
        certified(Differentiated(model), VECTOR, source=UpToCut(model, "second"))


def test_autocast_is_named_as_the_cause():
    def cast(net, y):
        with torch.autocast("cpu", torch.bfloat16):
            return net.between_layer(y)

    model = Net(cast)
    model.between_layer = nn.Linear(8, 8)
    with pytest.raises(UserError, match="autocast"):
        cut(model, "second", X)


@pytest.mark.parametrize(
    ("decides", "sizes"),
    [(lambda x: x.shape[0] > 1, "a batch of 1"), (lambda x: x.shape[0] >= 100, "a batch of 100"), (lambda x: len(x) % 2 == 0, "samples|a batch of")],
)  # fmt: skip
def test_code_that_decides_by_the_size_of_the_batch_is_refused_with_the_line(decides, sizes):
    def doubled(x):
        if decides(x):
            x = x * 2
        return x

    with pytest.raises(CertificateError, match=rf"({sizes}).*test_semantics.py:\d+: if decides\(x\):"):
        certified(client([Function(nn.Linear(6, 8), doubled)]), VECTOR)


def test_a_decision_by_size_in_code_that_is_traced_is_refused_with_the_line_when_the_model_is_cut():
    model = Net(lambda net, y: y * 2 if y.shape[0] > 1 else y)
    with pytest.raises(UserError, match=r"for a batch of one sample.*test_semantics.py:\d+: model = Net\("):
        Cutter(model, X).cut("second")


def test_a_decision_that_makes_no_difference_is_fine():
    def same(x):
        return x + x if x.shape[0] > 20 else 2 * x

    assert 21 in certified(client([Function(nn.Linear(6, 8), same)]), VECTOR).batch_sizes
