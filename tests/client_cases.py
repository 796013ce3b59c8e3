"""Clients of many kinds, each a list of modules, for engines to be held against torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from clients import SGD, TOKENS
from cutlayer_core.trial.optimizers import Adam, AdamW, Sgd
from cutlayer_core.trial.recipe import InputSpec

SIGNAL = InputSpec(shape=(4, 16))
VOLUME = InputSpec(shape=(2, 4, 6, 6))


class Function(nn.Module):
    """A function after a layer."""

    def __init__(self, layer, function):
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x):
        return self.function(self.layer(x))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8, padding_idx=0)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, activation="gelu")

    def forward(self, tokens):
        return self.encoder(self.embed(tokens))


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens):
        x = self.embed(tokens)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return x + self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


class Last(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        return self.cell(x)[0][:, -1]


class SqueezeExcite(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(functional.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Transposed(nn.Module):
    """BatchNorm over the features of a sequence, which lie last."""

    def __init__(self):
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x):
        sequence = x.flatten(1, 2)  # (B, 24, 8)
        return self.last(self.norm(sequence.transpose(1, 2)).transpose(1, 2))


CLIENTS = {
    "code that asks for float32": [Function(nn.Conv2d(3, 4, 3), lambda x: x.float()), nn.Conv2d(4, 2, 1)],
    "BatchNorm of what was transposed": [Transposed()],
    "one convolution, kernel as wide as its input is deep": [nn.Conv2d(3, 8, 3)],
    "BatchNorm after a bias": [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)],
    "BatchNorm without weights or statistics": [
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU6(),
    ],
    "grouped and depthwise": [nn.Conv2d(3, 6, 3, stride=2, groups=3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6)],
    "depthwise, strided, dilated": [
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
    ],
    "many channels, odd kernels": [
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 16, (3, 5), (2, 1), (1, 2)), nn.Conv2d(16, 20, 2, padding=1),
    ],
    "dilated, overlapping pool": [nn.Conv2d(3, 4, 3, dilation=2, padding=2), nn.LeakyReLU(), nn.MaxPool2d(3, 2, 1)],
    "pools that do not divide": [nn.Conv2d(3, 4, 2), nn.MaxPool2d(2), nn.AvgPool2d(2, 1, ceil_mode=True)],
    "average pools": [
        nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Hardswish(), nn.AdaptiveAvgPool2d(2),
        nn.AvgPool2d(2, 1, divisor_override=3),
    ],
    "adaptive pools": [nn.Conv2d(3, 4, 2), nn.AdaptiveAvgPool2d((3, 5)), nn.Mish(), nn.AdaptiveMaxPool2d(1)],
    "linear, LayerNorm": [nn.Flatten(), nn.Linear(192, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 8), nn.SiLU()],
    "GroupNorm, InstanceNorm": [nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ELU(), nn.InstanceNorm2d(4, affine=True)],
    "activations": [nn.Conv2d(3, 4, 3), nn.Softplus(), nn.PReLU(4), nn.Hardsigmoid(), nn.Conv2d(4, 4, 1), nn.GELU("tanh")],
    "soft activations": [nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Sigmoid(), nn.LogSoftmax(1), nn.Softsign(), nn.CELU()],
    "transposed convolution": [
        nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1), nn.ConvTranspose2d(6, 4, 2, groups=2),
    ],
    "upsampling, padding": [nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2), nn.ZeroPad2d(1), nn.Conv2d(4, 2, 3)],
    "pixel shuffle, unflatten": [nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 1), nn.PixelShuffle(2), nn.Flatten(2), nn.Linear(64, 5)],
    "squeeze and excite": [nn.Conv2d(3, 8, 3), nn.Hardswish(), SqueezeExcite(8), nn.Conv2d(8, 4, 1)],
    "dropouts": [nn.Conv2d(3, 8, 3), nn.Dropout(0.3), nn.Conv2d(8, 8, 3), nn.Dropout2d(0.2), nn.AlphaDropout(0.1)],
    "weight norm": [nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU()],
    "splitting and joining": [Function(nn.Conv2d(3, 8, 3), lambda x: torch.cat([x[:, ::2] * x[:, 1::2], x.chunk(2, 1)[0]], 1))],
    "rolled, padded in circles": [nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), Function(nn.Conv2d(4, 4, 3), lambda x: x * x.roll((1, -2, 0), (2, 3, 1)))],
    "least and greatest": [Function(nn.Conv2d(3, 8, 3), lambda x: torch.cat([x - x.amin(1, keepdim=True), x.max(1, keepdim=True)[0], x.min(3, keepdim=True)[0] * x], 1))],
    "spread, sums so far, rounding": [Function(nn.Conv2d(3, 8, 3), lambda x: x.cumsum(1) * (1 + x.std((2, 3), keepdim=True)) * x.var((0, 2), keepdim=True) + (x > 0).cumsum(2) + (4 * x).round())],
    "norms of other orders": [Function(nn.Conv2d(3, 8, 3), lambda x: x.norm(1, 1) + torch.linalg.vector_norm(x, 3, 1) + torch.linalg.vector_norm(x, float("inf"), 1))],
    "one entry of each": [Function(nn.Conv2d(3, 8, 3), lambda x: x.gather(1, x.argmax(1, keepdim=True)))],
    "reductions": [Function(nn.Conv2d(3, 8, 3), lambda x: (x - x.amax(1, keepdim=True)).exp().sum((2, 3)).log().clamp(min=0.1))],
}  # fmt: skip
OTHERS = {
    "signal": (SIGNAL, [nn.Conv1d(4, 8, 3, 2, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 3, groups=8), nn.AvgPool1d(2)]),
    "volume": (VOLUME, [nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.AdaptiveAvgPool3d(1)]),
    "features": (InputSpec(shape=(12,)), [nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4, bias=False)]),
    "embedding": (TOKENS, [nn.Embedding(20, 8, padding_idx=3), nn.LayerNorm(8)]),
    "transformer layer": (TOKENS, [Attention()]),
    "causal attention": (TOKENS, [Causal()]),
    "LSTM": (InputSpec(shape=(5, 3)), [Last(nn.LSTM(3, 4, batch_first=True))]),
    "GRU": (InputSpec(shape=(5, 3)), [Last(nn.GRU(3, 4, num_layers=2, batch_first=True))]),
}  # fmt: skip
OPTIMIZERS = {
    "plain": Sgd(learning_rate=0.1),
    "momentum, decay, clipped": Sgd(learning_rate=0.1, momentum=0.9, weight_decay=0.01, clip_norm=0.5),
    "nesterov": SGD,
    "adam": Adam(learning_rate=0.01, weight_decay=0.01),
    "adamw, clipped": AdamW(learning_rate=0.01, beta1=0.8, epsilon=1e-6, clip_norm=0.1),
}


def client(modules):
    torch.manual_seed(0)
    for module in modules:
        for part in module.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
    return nn.Sequential(*modules).train()


QUICK = {
    "BatchNorm after a bias", "grouped and depthwise", "dilated, overlapping pool", "average pools", "dropouts",
    "linear, LayerNorm", "transposed convolution", "features", "embedding",
}  # fmt: skip


def each(cases):
    """All cases; those that add little to the quick ones are left to `make test-slow`."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in cases]
