import pytest
import torch
from torch import nn

from cutlayer_core.errors import UserError
from cutlayer_cut import Cutter, cut, list_cuts
from cutlayer_cut.zoo.digits import DigitsNet
from cutlayer_cut.zoo.lenet import LeNet
from cutlayer_cut.zoo.mlp import Mlp
from cutlayer_cut.zoo.mobilenetv2 import MobileNetV2
from cutlayer_cut.zoo.resnet import ResNet18
from cutlayer_cut.zoo.resnet9 import ResNet9
from cutlayer_cut.zoo.text_encoder import TextEncoder
from cutlayer_cut.zoo.vgg import VGG11, VGG13
from other_models import Repeated


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.block = Block()
        self.last = nn.Linear(4 * 64, 10)

    def forward(self, x):
        return self.last(self.block(self.first(x)).flatten(1))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.b(torch.relu(self.norm(self.a(x)))))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.c = nn.Linear(4, 4)
        self.c.weight = self.a.weight

    def forward(self, x):
        return self.c(self.b(self.a(x)))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x):
        return self.b(self.a(self.a(x)))


class Unused(Twice):
    def forward(self, x):
        return self.a(x)


class Branching(Twice):
    def forward(self, x):
        return self.b(self.a(x)) if x.sum() > 0 else x


class Encoder(nn.Module):
    """Containers that look at shapes and flags with Python."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        hidden = self.encoder(self.embed(tokens))
        return self.head(hidden.view(tokens.shape[0], -1, 8).mean(1))


class Positions(nn.Module):
    """Reads the size of its input after the cut."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.a(x)
        return self.b(y + torch.arange(4)).reshape(x.shape[0], -1)


class Pair(nn.Module):
    """Cut at a module that gives out several tensors, of which one is used."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        out, _ = self.cell(x)
        return self.head(out[:, -1])


class Masked(nn.Module):
    """Takes more arguments than samples, which have defaults, as the transformers of timm do."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Encoder().encoder.layers)
        self.head = nn.Linear(8, 2)

    def forward(self, x, mask=None, causal: bool = False, scale: float = 1.0):
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=causal) * scale
        return self.head(x.mean(1))


IMAGE = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
COLOUR = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(0, 20, (3, 6), generator=torch.Generator().manual_seed(0))
VECTOR = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
CROSSING = (
    r"2 tensors cross at 'block.a' \(the output of first \(4, 8, 8\), the output of block.a \(4, 8, 8\)\); "
    "the nearest cuts with one tensor are 'first' and 'block'"
)
ZOO = {
    "DigitsNet": (DigitsNet, IMAGE, {"stem", "stem.0", "stem.2", "body", "head.1"}),
    "LeNet": (LeNet, torch.randn(2, 1, 28, 28), {"features", "features.2", "classifier.1"}),
    "Mlp": (lambda: Mlp((1, 8, 8), 16), IMAGE, {"fc1", "act1", "act2"}),
    "VGG11": (VGG11, COLOUR, {"features.2", "features.5", "features.10"}),
    "VGG13 with BatchNorm": (lambda: VGG13(batch_norm=True), COLOUR, {"features.6", "features.13"}),
    "ResNet18": (ResNet18, COLOUR, {"relu", "layer1", "layer2.0", "layer4.1"}),
    "ResNet18 for ImageNet": (lambda: ResNet18("imagenet"), torch.randn(2, 3, 64, 64), {"maxpool", "layer1.0"}),
    "ResNet9": (ResNet9, COLOUR, {"prep", "layer1.1", "layer2"}),
    "MobileNetV2": (MobileNetV2, COLOUR, {"features.0", "features.1", "features.3", "features.1.conv.0"}),
    "TextEncoder": (
        lambda: TextEncoder(20, 8, 2, 16, 6, dropout=0.1),
        TOKENS,
        {"embedding", "embedding.token", "layers.0"},
    ),
    "Encoder": (Encoder, TOKENS, {"embed", "encoder.layers.0", "encoder"}),
    "Residual": (Residual, IMAGE, {"first", "block"}),
    "Positions": (Positions, VECTOR, {"a"}),
    "Masked": (Masked, torch.randn(3, 6, 8), {"blocks.0"}),
    "Pair": (Pair, torch.randn(3, 5, 4), {"cell"}),
    "Repeated": (Repeated, torch.randn(2, 8), {"layers.0"}),
    "Repeated, traced": (lambda: Repeated(hard=True), torch.randn(2, 8), {"layers.0"}),
}


SLOW = {"ResNet18", "MobileNetV2", "ResNet18 for ImageNet", "ResNet9", "VGG13 with BatchNorm"}


@pytest.mark.parametrize("model", [pytest.param(each, marks=pytest.mark.slow if each in SLOW else ()) for each in ZOO])
def test_both_halves_together_equal_the_whole_bit_for_bit_at_every_cut(model):
    torch.manual_seed(0)
    build, example, expected = ZOO[model]
    whole = build()
    cutter = Cutter(whole, example)
    names = cutter.possible()
    assert expected <= set(names)
    for name in names:
        client, server = cutter.cut(name)
        for training in (True, False):
            for half in (client, server, whole):
                half.train(training)
            halves = nn.Sequential(client, server)
            assert torch.equal(_output(halves, example, whole), _output(whole, example, whole)), (name, training)
        keys = [*client.state_dict(), *server.state_dict()]
        assert sorted(keys) == sorted(whole.state_dict())


def _output(module, example, owner):
    """What ``module`` computes; the buffers that it shares with ``owner`` are as before afterwards."""
    buffers = {key: value.clone() for key, value in owner.named_buffers()}
    torch.manual_seed(1)
    result = module(example).detach()
    for key, value in owner.named_buffers():
        value.copy_(buffers[key])
    return result


def test_the_halves_have_the_mode_of_the_model():
    for training in (True, False):
        halves = cut(DigitsNet().train(training), "stem", IMAGE)
        assert all(half.training is training for half in halves)


def test_any_batch_size_goes_through_halves_that_were_traced_to_operations():
    whole = Encoder().eval()
    client, server = cut(whole, "encoder.layers.0", TOKENS)
    tokens = torch.randint(0, 20, (7, 6))
    torch.testing.assert_close(server(client(tokens)), whole(tokens))


class Normed(Pair):
    """The state of the cell is taken apart and not used."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        out, _ = self.cell(x)
        return self.head(self.norm(out)[:, -1])


class Functional(nn.Module):
    """Dropout as a function, switched by the mode of its container."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(nn.functional.dropout(self.a(x), 0.5, self.training))


class Frozen(nn.Module):
    """Keeps its BatchNorm in eval mode, as fine-tuning does."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.b(self.norm(self.a(x)))


class Counting(nn.Module):
    """Changes a buffer of its own in every pass."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return self.b(self.a(x) * 2)


def test_what_a_container_does_in_its_mode_is_done_by_the_halves():
    whole = Functional()
    client, server = cut(whole, "a", VECTOR)
    for training in (True, False):
        for module in (whole, client, server):
            module.train(training)
        results = []
        for compute in (whole, nn.Sequential(client, server).train(training)):
            torch.manual_seed(1)
            results.append(compute(VECTOR))
        assert torch.equal(*results)


def test_a_module_that_its_model_keeps_in_eval_mode_stays_there():
    client = cut(Frozen().train(), "norm", VECTOR).client
    assert client.training
    assert not client.norm.training


def test_cutting_leaves_the_model_as_it_was():
    whole = Counting()
    cut(whole, "a", VECTOR)
    Cutter(whole, VECTOR).possible()
    assert whole.count == 0


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_nobody_reads_does_not_cross(cell):
    model = Normed()
    model.cell = cell(4, 4, batch_first=True)
    assert cut(model, "norm", torch.randn(3, 5, 4)).client(torch.randn(2, 5, 4)).shape == (2, 5, 4)


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        (DigitsNet, "stm", "found 'stm', which is not a module of DigitsNet; did you mean 'stem'"),
        (DigitsNet, "", "which is not a module"),
        (Residual, "block.a", CROSSING),
        (Unused, "b", "the model does not call it"),
        (Shared, "b", "the parameter a.weight is used before and after it"),
        (Branching, "a", r"cannot be cut at 'a': its code decides by the values of tensors at .*test_cut\.py:\d+: return"),
    ],
)  # fmt: skip
def test_a_cut_that_is_none_is_refused_with_the_way_out(model, name, message):
    example = IMAGE if model in (DigitsNet, Residual) else VECTOR
    with pytest.raises(UserError, match=message):
        cut(model(), name, example)


def test_the_list_of_cuts_says_what_each_costs():
    rows = {row.cut: row for row in list_cuts(DigitsNet(), IMAGE)}
    assert list(rows)[:3] == ["stem.0", "stem.1", "stem.2"]
    stem = rows["stem"]
    assert stem.smashed_shape == (16, 4, 4)
    assert (stem.raw_bytes, stem.fp8_bytes, stem.client_parameters) == (1024, 256, 1248)
    products = 8 * 64 * 9 + 16 * 64 * 8 * 9  # of both convolutions
    assert stem.forward_mflop == pytest.approx(2e-6 * products, abs=1e-3)
    assert stem.backward_mflop == pytest.approx(2e-6 * (products + 16 * 64 * 8 * 9), abs=1e-3)
    assert "head.3" not in rows, "nothing would be left for the server"
