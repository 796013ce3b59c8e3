"""Operations that a client may have, each between a layer that is trained and the smashed data, so that its gradient counts."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cutlayer_core.trial.recipe import InputSpec

__all__ = ["OPERATIONS", "REFUSED", "Operation"]

ROW, TOKENS = InputSpec(shape=(12,)), InputSpec(shape=(6,), dtype="int64", low=0, high=19)
IMAGES, AUDIO, VOLUME = InputSpec(shape=(3, 8, 8)), InputSpec(shape=(3, 64)), InputSpec(shape=(2, 4, 6, 6))
WINDOW, GRID = torch.hann_window(16), torch.linspace(-0.9, 0.8, 50).view(1, 5, 5, 2)
POINTS, THIRDS = torch.linspace(-0.5, 0.9, 6).view(2, 3), torch.tensor([-0.5, 0.0, 0.5])
AGAIN = torch.arange(12) % 5


class Operation(NamedTuple):
    """What is computed of what a layer gives."""

    spec: InputSpec
    layer: Callable[[], nn.Module]
    function: Callable[[Tensor], Tensor]

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return _Model(self.layer(), self.function)


class OfRemainders(nn.Embedding):
    """Looks up the remainders of its tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens % 7)


class _Model(nn.Module):
    def __init__(self, layer: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


def row(function):
    return Operation(ROW, lambda: nn.Linear(12, 12), function)


def images(function):
    return Operation(IMAGES, lambda: nn.Conv2d(3, 4, 3, padding=1), function)


def audio(function):
    return Operation(AUDIO, lambda: nn.Conv1d(3, 4, 3, padding=1), function)


def bag(mode):
    return Operation(TOKENS, lambda: nn.EmbeddingBag(20, 8, mode=mode), lambda y: y)


def volume(layer, function):
    return Operation(VOLUME, layer, function)


def matrices(y):
    return y.view(-1, 3, 4)


def frames(y):
    return y.unfold(2, 16, 8) * WINDOW


def spectrum(y, **options):
    return torch.stft(y[:, 0], 16, 8, window=WINDOW, **options)


def square(y):
    return matrices(y)[:, :, :3]


def interpolated(**options):
    return images(lambda y: functional.interpolate(y, **options))


ELEMENTWISE = {
    "atan": torch.atan, "asinh": torch.asinh, "acosh": lambda y: torch.acosh(y.abs() + 1.5), "atanh": lambda y: torch.atanh(y.tanh() * 0.9),
    "asin": lambda y: torch.asin(y.tanh() * 0.9), "acos": lambda y: torch.acos(y.tanh() * 0.9), "atan2": lambda y: torch.atan2(y, y.roll(1, 1) + 3),
    "sinh": torch.sinh, "cosh": torch.cosh, "tan": lambda y: torch.tan(y.tanh()), "trunc": lambda y: y * torch.trunc(y * 3),
    "remainder": lambda y: torch.remainder(y, 0.7), "fmod": lambda y: torch.fmod(y, 0.7), "exp2": torch.exp2, "expm1": torch.expm1,
    "log1p": lambda y: torch.log1p(y.abs()), "log2": lambda y: torch.log2(y.abs() + 1), "log10": lambda y: torch.log10(y.abs() + 1),
    "erf": torch.erf, "erfc": torch.erfc, "frac": torch.frac, "sign": lambda y: y * torch.sign(y), "hypot": lambda y: torch.hypot(y, y + 3),
    "logaddexp": lambda y: torch.logaddexp(y, y * 2), "lerp": lambda y: torch.lerp(y, y * 2, 0.3), "addcmul": lambda y: torch.addcmul(y, y, y),
    "xlogy": lambda y: torch.special.xlogy(y.abs(), y.abs() + 1), "logit": lambda y: torch.logit(y.sigmoid()), "nan_to_num": torch.nan_to_num,
    "clamp with tensors": lambda y: torch.clamp(y, torch.full((12,), -0.5), torch.full((12,), 0.5)), "square": torch.square,
    "rsqrt": lambda y: (y.abs() + 0.1).rsqrt(), "reciprocal": lambda y: (y.abs() + 0.3).reciprocal(), "pow with a tensor": lambda y: (y.abs() + 0.5) ** y,
    "pow of a number": lambda y: 2.0**y, "maximum": lambda y: torch.maximum(y, y.roll(1, 1)), "minimum": lambda y: torch.minimum(y, y.roll(1, 1)),
    "where": lambda y: torch.where(y > 0, y * 2, y * 0.1), "logical and": lambda y: y * ((y > 0) & (y < 1)), "bucketize": lambda y: y + torch.bucketize(y, THIRDS),
    "searchsorted": lambda y: y + torch.searchsorted(THIRDS, y), "searchsorted, right": lambda y: y + torch.searchsorted(THIRDS, (y * 2).round() / 2, side="right"), "fake_quantize": lambda y: torch.fake_quantize_per_tensor_affine(y, 0.05, 0, -128, 127),
}  # fmt: skip
ACTIVATIONS = {
    "softsign": functional.softsign, "logsigmoid": functional.logsigmoid, "mish": functional.mish, "celu": functional.celu, "selu": functional.selu,
    "hardshrink": functional.hardshrink, "softshrink": functional.softshrink, "tanhshrink": functional.tanhshrink, "glu": functional.glu,
    "hardswish": functional.hardswish, "PReLU": nn.PReLU(), "RReLU in eval mode": lambda y: functional.rrelu(y, training=False),
    "log_softmax": lambda y: functional.log_softmax(y, -1), "softmin": lambda y: functional.softmin(y, -1), "smooth_l1": lambda y: functional.smooth_l1_loss(y, torch.zeros_like(y), reduction="none"),
}  # fmt: skip
OVER_AXES = {
    "topk": lambda y: y.topk(3)[0], "sort": lambda y: y.sort(-1)[0], "argsort": lambda y: y.gather(1, y.argsort(1)), "median": lambda y: y.median(-1).values,
    "kthvalue": lambda y: y.kthvalue(3, -1).values, "min": lambda y: y.min(-1)[0], "amin": lambda y: y.amin(-1), "aminmax": lambda y: y.aminmax(dim=-1)[0],
    "quantile": lambda y: y.quantile(0.3, dim=-1), "cummax": lambda y: y.cummax(1).values + y.gather(1, y.cummax(1).indices), "cummin": lambda y: y.cummin(1)[0], "cumprod": lambda y: y.cumprod(1),
    "cumsum": lambda y: y.cumsum(1), "logcumsumexp": lambda y: y.logcumsumexp(1), "prod": lambda y: y.prod(1, keepdim=True), "diff": torch.diff,
    "logsumexp": lambda y: y.logsumexp(1, keepdim=True), "norm": lambda y: y / y.norm(dim=1, keepdim=True), "normalize": functional.normalize,
    "cosine_similarity": lambda y: functional.cosine_similarity(y[:, :6], y[:, 6:])[:, None] * y, "one_hot": lambda y: y * functional.one_hot(y.argmax(1), 12),
}  # fmt: skip
PLACES = {
    "gather": lambda y: y.gather(1, AGAIN.expand(y.shape[0], -1)), "scatter_add": lambda y: torch.zeros_like(y).scatter_add(1, AGAIN.expand(y.shape[0], -1), y),
    "scatter of a number": lambda y: y * torch.zeros_like(y).scatter(1, AGAIN.expand(y.shape[0], -1), 0.5),
    "index_select": lambda y: y.index_select(1, torch.tensor([0, 3, 3, 5])), "index": lambda y: y[:, [0, 3, 3]], "repeat_interleave": lambda y: y.repeat_interleave(2, 1),
    "tril": lambda y: matrices(y).tril(), "diagonal": lambda y: square(y).diagonal(dim1=1, dim2=2), "tile": lambda y: y.tile(1, 2),
    "masked_fill": lambda y: square(y).masked_fill(torch.ones(3, 3).triu(1).bool(), -1e9).softmax(-1), "unbind and stack": lambda y: torch.stack(matrices(y).unbind(1), 2),
}  # fmt: skip
PRODUCTS = {
    "einsum": lambda y: torch.einsum("bij,bkj->bik", matrices(y), matrices(y)), "cdist": lambda y: torch.cdist(y.view(-1, 4, 3), POINTS),
    "cross": lambda y: torch.linalg.cross(y.view(-1, 4, 3), y.view(-1, 4, 3).roll(1, 1)), "tensordot": lambda y: torch.tensordot(y, torch.ones(12, 3), 1),
    "bilinear": lambda y: functional.bilinear(y[:, :6], y[:, 6:], torch.linspace(-1, 1, 180).view(5, 6, 6)),
    "causal attention": lambda y: functional.scaled_dot_product_attention(*[y.view(-1, 1, 3, 4)] * 3, is_causal=True),
}  # fmt: skip
PADS = {
    "reflection_pad2d": images(lambda y: functional.pad(y, (1, 2, 2, 1), mode="reflect")), "reflection_pad1d": audio(lambda y: functional.pad(y, (3, 2), mode="reflect")),
    "replication_pad2d": images(lambda y: functional.pad(y, (1, 2, 2, 1), mode="replicate")), "replication_pad1d": audio(lambda y: functional.pad(y, (3, 2), mode="replicate")),
    "circular pad": images(lambda y: functional.pad(y, (1, 2, 2, 1), mode="circular")),
}  # fmt: skip
FRAMES = {
    "unfold of a signal": audio(lambda y: y.unfold(2, 16, 8)), "unfold with rests": audio(lambda y: y.unfold(2, 10, 7)), "unfold": images(lambda y: functional.unfold(y, 3, padding=1, stride=2)),
    "fold": images(lambda y: functional.fold(functional.unfold(y, 2, stride=2), (8, 8), 2, stride=2)), "stft": audio(lambda y: torch.view_as_real(spectrum(y, return_complex=True))),
    "spectrogram": audio(lambda y: spectrum(y, return_complex=True).abs()), "power spectrogram": audio(lambda y: spectrum(y, return_complex=True, center=False).abs().pow(2)),
    "rfft of frames": audio(lambda y: torch.fft.rfft(frames(y)).abs()), "irfft": audio(lambda y: torch.fft.irfft(torch.fft.rfft(y) * 2)), "fft2": audio(lambda y: torch.fft.fft2(y).real),
    "complex": row(lambda y: (torch.complex(y[:, :6], y[:, 6:]) * torch.polar(y[:, :6].abs(), y[:, 6:])).angle()),
}  # fmt: skip
IMAGE_OPERATIONS = {
    "local_response_norm": images(nn.LocalResponseNorm(3)), "adaptive max pool, uneven": images(nn.AdaptiveMaxPool2d(3)), "adaptive average pool, uneven": images(nn.AdaptiveAvgPool2d((3, 5))),
    "BatchNorm, momentum None": images(nn.BatchNorm2d(4, momentum=None)), "instance_norm": images(nn.InstanceNorm2d(4, affine=True)), "group_norm": images(nn.GroupNorm(2, 4)),
    "fake_quantize by channel": images(lambda y: torch.fake_quantize_per_channel_affine(y, torch.full((4,), 0.05), torch.zeros(4, dtype=torch.int32), 1, -128, 127)),
    "lp_pool": images(lambda y: functional.lp_pool2d(y, 2.0, 2)), "pixel_unshuffle": images(nn.PixelUnshuffle(2)), "channel_shuffle": images(nn.ChannelShuffle(2)),
    "nearest": interpolated(scale_factor=2), "bilinear upsampling": interpolated(scale_factor=2, mode="bilinear"), "bicubic": interpolated(scale_factor=2, mode="bicubic"),
    "area": interpolated(size=(5, 5), mode="area"), "antialiased": interpolated(size=(5, 5), mode="bilinear", antialias=True), "flip": images(lambda y: y.flip(2, 3)), "roll": images(lambda y: y.roll((1, 2), (2, 3))),
    "grid_sample": images(lambda y: functional.grid_sample(y, GRID.expand(y.shape[0], -1, -1, -1), align_corners=False)),
    "affine_grid": images(lambda y: functional.grid_sample(y, functional.affine_grid(y.mean((2, 3))[:, :1, None].expand(-1, 2, 3) * 0.1 + torch.eye(2, 3), y.shape, align_corners=False), align_corners=False)),
    "max_unpool": images(lambda y: functional.max_unpool2d(*functional.max_pool2d(y, 2, return_indices=True), 2)), "dropout2d": images(nn.Dropout2d(0.3)),
}  # fmt: skip
VOLUMES = {
    "conv3d": volume(lambda: nn.Conv3d(2, 3, 3, padding=1), lambda y: y),
    "max_pool3d": volume(lambda: nn.Conv3d(2, 3, 1), nn.MaxPool3d(2)),
    "avg_pool3d": volume(lambda: nn.Conv3d(2, 3, 1), nn.AvgPool3d(2)),
}
MATRICES = {
    "inverse": row(lambda y: torch.linalg.inv(square(y) + 3 * torch.eye(3))),
    "det": row(lambda y: torch.linalg.det(square(y) + 3 * torch.eye(3))[:, None]),
    "matrix_exp": row(lambda y: torch.matrix_exp(square(y))),
}
OPERATIONS: dict[str, Operation] = {
    **{name: row(function) for group in (ELEMENTWISE, ACTIVATIONS, OVER_AXES, PLACES, PRODUCTS) for name, function in group.items()},
    **{f"EmbeddingBag, {mode}": bag(mode) for mode in ("mean", "sum", "max")},
    "remainder of whole numbers": Operation(TOKENS, lambda: OfRemainders(20, 8), lambda y: y),
    **PADS, **FRAMES, **IMAGE_OPERATIONS, **VOLUMES, **MATRICES,
}  # fmt: skip
REFUSED = {
    "onnx": {"antialiased", "max_unpool", "inverse", "det", "matrix_exp"},
    "tflite": {"antialiased", "max_unpool", "inverse", "det", "matrix_exp", "conv3d", "max_pool3d", "avg_pool3d"},
}
"""What an engine cannot do, by its name."""
