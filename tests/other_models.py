"""Models as others write them, as factories that a recipe can name."""

import warnings

import torch
from torch import nn
from torch.nn.utils import prune


class Attention(nn.Module):
    """Ignores the weights that the attention gives besides its output."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 3)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        y = self.embed(x)
        a, _ = self.attention(y, y, y)
        return self.head(self.norm(a).mean(1))


class Video(nn.Module):
    """One encoder for all frames, which are folded into the batch, and a recurrent layer over time."""

    def __init__(self, *, by_sample=True):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.over_time, self.head = nn.GRU(16, 8, batch_first=True), nn.Linear(8, 3)
        self.by_sample = by_sample

    def forward(self, x):
        batch, time = x.shape[:2]
        frames = x if self.by_sample else x.transpose(0, 1)
        y = self.encoder(frames.reshape(batch * time, *x.shape[2:]))
        y = y.reshape(batch, time, -1) if self.by_sample else y.reshape(time, batch, -1).transpose(0, 1)
        return self.head(self.over_time(y)[0][:, -1])


class Listener(nn.Module):
    """Spectrograms in its own code; ``hard`` code can only be traced as operations."""

    def __init__(self, hard=False):
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))
        self.first, self.second, self.head = nn.Conv1d(9, 4, 3), nn.Conv1d(4, 4, 3), nn.Linear(4, 3)
        self.hard = hard

    def forward(self, x):
        if self.hard and x.shape[0] * x.shape[1] < 0:
            return x
        power = torch.stft(x, 16, 8, window=self.window, return_complex=True).abs().pow(2)
        return self.head(self.second(self.first(torch.log(power + 1e-4))).mean(2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.layer(x))


def scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would like something else to be used
        return torch.jit.script(module)


class WithNothing(Block):
    """Gives None beside its result, as layers without a cache do."""

    def forward(self, x, mask=None):
        return super().forward(x), mask


class Chain(nn.Module):
    def __init__(self, block, gives=lambda found: found):
        super().__init__()
        self.first, self.block, self.head, self.gives = nn.Linear(8, 8), block, nn.Linear(8, 3), gives

    def forward(self, x):
        return self.head(self.gives(self.block(self.first(x))))


def channels_last():
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 3)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def pruned():
    torch.manual_seed(0)
    block = Block()
    prune.random_unstructured(block.layer, "weight", 0.5)
    return Chain(block)


def time_major():
    return Video(by_sample=False)


def compiled():
    return scripted(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)))


def compiled_inside():
    return Chain(scripted(nn.Sequential(nn.Linear(8, 8), nn.ReLU())))


def halved():
    return Chain(Block()).bfloat16()


def double():
    return Chain(Block()).double()


class Pair(Chain):
    def __init__(self):
        super().__init__(Block())

    def forward(self, x, other):
        return super().forward(x) + other


class Autocast(Pair):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.block(self.first(x))
        return self.head(y.float())


class ByValue(Pair):
    def forward(self, x):
        y = self.first(x)
        if y.sum() > 0:
            y = y * 2
        return self.head(self.block(y))


class Ignored(Pair):
    def forward(self, x):
        self.block(x)
        return self.head(self.first(x))


def digits_channels_last():
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


class Repeated(nn.Module):
    """One layer three times, with weights that another layer uses too, then the server's layer."""

    def __init__(self, hard=False):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8)] * 3)
        self.between = nn.Linear(8, 8)
        self.between.weight = self.layers[0].weight
        self.last = nn.Linear(8, 3)
        self.hard = hard

    def forward(self, x):
        """(B, 8) to (B, 3); ``hard`` runs code that only a trace of operations follows."""
        if self.hard and x.shape[0] * x.shape[1] < 0:
            return x
        for layer in self.layers:
            x = torch.tanh(self.between(layer(x)))
        return self.last(self.layers[0](x))


def convolutions():
    """Of many channels, so that there is more than one way to compute them well."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip


def dark():
    """Most windows that the second convolution sees are zero, and so is its bias: rounding would decide behind it."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip
    with torch.no_grad():
        model[0].weight.abs_()
        model[0].bias.fill_(-1.5)
        model[2].bias.zero_()
    return model


class Reader(nn.Module):
    """An embedding with a padding token, then two layers."""

    def __init__(self):
        super().__init__()
        self.embedding, self.between = nn.Embedding(30, 6, padding_idx=0), nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        return self.head(torch.tanh(self.between(self.embedding(tokens))).mean(1))
