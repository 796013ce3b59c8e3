import pytest
import torch
from torch import nn

from cutlayer.errors import UserError
from cutlayer_cut import cut
from cutlayer_cut.zoo.digits import DigitsNet


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


class Branching(Twice):
    def forward(self, x):
        return self.b(self.a(x)) if x.sum() > 0 else x


IMAGE = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (DigitsNet, "stem"), (DigitsNet, "stem.0"), (DigitsNet, "stem.2"), (DigitsNet, "stem.4"), (DigitsNet, "body"),
        (DigitsNet, "body.0"), (DigitsNet, "head.1"), (DigitsNet, "head.2"),
        (Residual, "first"), (Residual, "block"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("training", [True, False])
def test_both_halves_together_equal_the_whole_bit_for_bit(model, name, training):
    torch.manual_seed(0)
    whole = model().train(training)
    client, server = cut(whole, name)
    names = list(client.state_dict()) + list(server.state_dict())
    assert sorted(names) == sorted(whole.state_dict())
    buffers = {key: value.clone() for key, value in whole.named_buffers()}
    wanted = whole(IMAGE)
    for key, value in whole.named_buffers():
        value.copy_(buffers[key])
    assert torch.equal(server(client(IMAGE)), wanted)
    assert client.training is server.training is training


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        (DigitsNet, "stm", "found 'stm', which is not a module of DigitsNet; did you mean 'stem'"),
        (DigitsNet, "", "which is not a module"),
        (Residual, "block.a", "first does too.*cut at the end of the block"),
        (Twice, "a", "called 2 times"),
        (Shared, "b", "1 parameters are used on both sides"),
        (Branching, "a", "cannot be traced"),
    ],
)
def test_a_cut_that_is_none_is_refused_with_the_way_out(model, name, message):
    with pytest.raises(UserError, match=message):
        cut(model(), name)
