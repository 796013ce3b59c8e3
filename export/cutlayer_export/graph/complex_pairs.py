"""Complex tensors as pairs of real ones, and Fourier transforms as products with matrices.

No engine has complex numbers, but what models make of them, such as spectrograms, are real again in the end. So complex
tensors exist only while a model is traced, and what stays in the graph are their real and imaginary parts.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["COMPLEX", "ComplexPair", "root"]

aten = torch.ops.aten
_MOST = 4096
"""Longest transform: its matrix has the square of that many entries."""
_MOVING = (
    *("__getitem__", "clone", "contiguous", "detach", "expand", "flatten", "flip", "movedim", "narrow", "permute"),
    *("reshape", "roll", "select", "slice", "squeeze", "transpose", "unflatten", "unsqueeze", "view"),
    *("mean", "sum", "neg"),
)
"""What is done to both parts alike."""


class ComplexPair:
    """Real and imaginary parts, of the same shape."""

    def __init__(self, real: Tensor, imag: Tensor) -> None:
        self.real, self.imag = real, imag

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if (rule := _RULES.get(name)) is None:
            raise NotImplementedError(f"{name} of complex numbers")
        return rule(*args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        if name in _SAME:
            return getattr(self.real, name)
        if (rule := _RULES.get(name)) is None:
            if name.startswith("_"):
                raise AttributeError(name)
            raise NotImplementedError(f"{name} of complex numbers")
        return lambda *args, **kwargs: rule(self, *args, **kwargs)

    def __getitem__(self, places: Any) -> "ComplexPair":
        return ComplexPair(self.real[places], self.imag[places])

    def __mul__(self, other: Any) -> "ComplexPair":
        return _times(self, other)

    def __add__(self, other: Any) -> "ComplexPair":
        return _plus(self, other)

    def __sub__(self, other: Any) -> "ComplexPair":
        return _plus(self, _times(other, -1.0))

    def __truediv__(self, other: Any) -> "ComplexPair":
        return _over(self, other)

    def __rsub__(self, other: Any) -> "ComplexPair":
        return _plus(-self, other)

    def __rtruediv__(self, other: Any) -> "ComplexPair":
        return _over(_pair(torch.full_like(self.real, other) if isinstance(other, int | float) else other), self)

    def __pow__(self, exponent: Any) -> "ComplexPair":
        return _power(self, exponent)

    def __neg__(self) -> "ComplexPair":
        return ComplexPair(-self.real, -self.imag)

    __rmul__, __radd__ = __mul__, __add__


_SAME = {"shape", "device", "ndim", "dim", "size", "numel"}


def root(squares: Tensor) -> Tensor:
    """The square root, whose gradient at zero is zero: that of a length."""
    nothing = squares == 0
    return torch.where(
        nothing, torch.zeros_like(squares), torch.sqrt(torch.where(nothing, torch.ones_like(squares), squares))
    )


def _pair(x: Any) -> ComplexPair:
    return x if isinstance(x, ComplexPair) else ComplexPair(x, torch.zeros_like(x))


def _times(a: Any, b: Any) -> ComplexPair:
    if not isinstance(a, ComplexPair):
        a, b = b, a
    if not isinstance(b, ComplexPair):
        return ComplexPair(a.real * b, a.imag * b)
    return ComplexPair(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)


def _plus(a: Any, b: Any, alpha: float = 1) -> ComplexPair:
    b = _times(b, alpha) if alpha != 1 else b
    if not isinstance(a, ComplexPair):
        a, b = b, a
    return (
        ComplexPair(a.real + b.real, a.imag + b.imag) if isinstance(b, ComplexPair) else ComplexPair(a.real + b, a.imag)
    )


def _over(a: ComplexPair, b: Any) -> ComplexPair:
    if not isinstance(b, ComplexPair):
        return ComplexPair(a.real / b, a.imag / b)
    return _over(_times(a, ComplexPair(b.real, -b.imag)), b.real * b.real + b.imag * b.imag)


def _power(x: ComplexPair, exponent: Any) -> ComplexPair:
    if exponent != 2:
        raise NotImplementedError(f"the power {exponent} of complex numbers")
    return _times(x, x)


def _both(name: str) -> Callable[..., ComplexPair]:
    def rule(x: ComplexPair, *args: Any, **kwargs: Any) -> ComplexPair:
        return ComplexPair(*(getattr(part, name)(*args, **kwargs) for part in (x.real, x.imag)))

    return rule


def _view_as_real(x: ComplexPair) -> Tensor:
    return torch.stack([x.real, x.imag], -1)


_RULES: dict[str, Callable[..., Any]] = {
    **{name: _both(name) for name in _MOVING},
    "abs": lambda x: root(x.real * x.real + x.imag * x.imag),
    "absolute": lambda x: root(x.real * x.real + x.imag * x.imag),
    "add": _plus,
    "angle": lambda x: torch.atan2(x.imag, x.real),
    "cat": lambda parts, dim=0: ComplexPair(*(torch.cat([getattr(_pair(each), part) for each in parts], dim) for part in ("real", "imag"))),
    "conj": lambda x: ComplexPair(x.real, -x.imag),
    "_conj": lambda x: ComplexPair(x.real, -x.imag),
    "resolve_conj": lambda x: x,
    "div": _over,
    "imag": lambda x: x.imag,
    "mul": _times,
    "pow": _power,
    "real": lambda x: x.real,
    "stack": lambda parts, dim=0: ComplexPair(*(torch.stack([getattr(_pair(each), part) for each in parts], dim) for part in ("real", "imag"))),
    "sub": lambda a, b: _plus(a, _times(b, -1.0)),
    "view_as_real": _view_as_real,
    **{name: lambda x, *args, name=name, **kwargs: COMPLEX[getattr(torch.fft, name)](x, *args, **kwargs) for name in ("fft", "ifft", "irfft", "fft2", "ifft2", "irfft2")},
    **{f"fft_{name}": lambda x, *args, name=name, **kwargs: COMPLEX[getattr(torch.fft, name)](x, *args, **kwargs) for name in ("fft", "ifft", "irfft", "fft2", "ifft2", "irfft2")},
}  # fmt: skip


def _waves(size: int, frequencies: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (size, frequencies)."""
    if size > _MOST:
        raise NotImplementedError(f"a Fourier transform of {size} entries, allowed: up to {_MOST}")
    turns = np.outer(np.arange(size), np.arange(frequencies)) % size * (2 * np.pi / size)
    return torch.from_numpy(np.cos(turns).astype(np.float32)), torch.from_numpy(np.sin(turns).astype(np.float32))


def _sized(x: Any, size: int | None, axis: int) -> Any:
    """``x`` with an axis moved to the end, cut or filled with zeros to a size."""
    if isinstance(x, ComplexPair):
        return ComplexPair(_sized(x.real, size, axis), _sized(x.imag, size, axis))
    last = x.movedim(axis, -1)
    full = int(last.shape[-1])
    if size is None or size == full:
        return last
    return last.narrow(-1, 0, size) if size < full else pad(last, [0, size - full])


def _scale(size: int, norm: str | None, inverse: bool) -> float:
    whole = "forward" if not inverse else "backward"
    return size**-0.5 if norm == "ortho" else 1.0 / size if (norm or "backward") == whole else 1.0


def _rfft(x: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> ComplexPair:
    last = _sized(x, n, dim)
    size = int(last.shape[-1])
    cosines, sines = _waves(size, size // 2 + 1)
    factor = _scale(size, norm, inverse=False)
    return ComplexPair(
        *((last @ (each * sign * factor)).movedim(-1, dim) for each, sign in ((cosines, 1.0), (sines, -1.0)))
    )


def _irfft(x: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    size = 2 * (int(x.shape[dim]) - 1) if n is None else n
    half = _sized(_pair(x), size // 2 + 1, dim)
    cosines, sines = (each.t() for each in _waves(size, size // 2 + 1))
    twice = torch.full((size // 2 + 1, 1), 2.0)
    twice[0] = 1.0
    if size % 2 == 0:
        twice[-1] = 1.0
    factor = _scale(size, norm, inverse=True)
    real: Tensor = half.real @ (cosines * twice * factor) - half.imag @ (sines * twice * factor)
    return real.movedim(-1, dim)


def _fft(inverse: bool) -> Callable[..., ComplexPair]:
    def rule(x: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> ComplexPair:
        last = _sized(_pair(x), n, dim)
        size = int(last.shape[-1])
        cosines, sines = (each * _scale(size, norm, inverse) for each in _waves(size, size))
        sines = -sines if inverse else sines
        real = last.real @ cosines + last.imag @ sines
        imag = last.imag @ cosines - last.real @ sines
        return ComplexPair(real.movedim(-1, dim), imag.movedim(-1, dim))

    return rule


def _over_two(last: Callable[..., Any], other: Callable[..., Any], back: bool) -> Callable[..., Any]:
    """A transform over two axes, one after the other."""

    def rule(x: Any, s: Sequence[int] | None = None, dim: Sequence[int] = (-2, -1), norm: str | None = None) -> Any:
        sizes = (None, None) if s is None else s
        steps = [(last, sizes[1], dim[1]), (other, sizes[0], dim[0])]
        for transform, size, axis in reversed(steps) if back else steps:
            x = transform(x, size, axis, norm)
        return x

    return rule


def _stft(
    x: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    **_: Any,
) -> Any:
    """Frames of a signal, weighted with a window and transformed: (..., frequencies, frames), as `torch.stft` says."""
    if onesided is False:
        raise NotImplementedError("stft with onesided=False")
    hop, width = hop_length or n_fft // 4, win_length or n_fft
    weights = torch.ones(width) if window is None else window
    left = (n_fft - width) // 2
    weights = pad(weights, [left, n_fft - width - left])
    signal = x if x.dim() == 2 else x.unsqueeze(0)
    if center:
        signal = pad(signal.unsqueeze(1), [n_fft // 2] * 2, mode=pad_mode).squeeze(1)
    frames = signal.unfold(-1, n_fft, hop) * weights
    found = _rfft(frames).transpose(-1, -2)
    if normalized:
        found = found * (1.0 / math.sqrt(n_fft))
    found = found if x.dim() == 2 else found.squeeze(0)
    return found if return_complex else _view_as_real(found)


_fft1, _ifft1 = _fft(inverse=False), _fft(inverse=True)
COMPLEX: dict[Any, Callable[..., Any]] = {
    torch.stft: _stft,
    aten.stft.default: lambda x, n_fft, hop=None, width=None, window=None, normalized=False, onesided=None, as_complex=None, **_: _stft(
        x, n_fft, hop, width, window, False, "reflect", normalized, onesided, as_complex
    ),
    aten.stft.center: _stft,
    torch.complex: ComplexPair,
    aten.complex.default: ComplexPair,
    torch.polar: lambda size, angle: ComplexPair(size * torch.cos(angle), size * torch.sin(angle)),
    aten.polar.default: lambda size, angle: ComplexPair(size * torch.cos(angle), size * torch.sin(angle)),
    torch.view_as_complex: lambda x: ComplexPair(x[..., 0], x[..., 1]),
    aten.view_as_complex.default: lambda x: ComplexPair(x[..., 0], x[..., 1]),
    torch.fft.rfft: _rfft,
    aten.fft_rfft.default: _rfft,
    torch.fft.irfft: _irfft,
    torch.fft.fft: _fft1,
    aten.fft_fft.default: _fft1,
    torch.fft.ifft: _ifft1,
    torch.fft.rfft2: _over_two(_rfft, _fft1, back=False),
    aten.fft_rfft2.default: _over_two(_rfft, _fft1, back=False),
    torch.fft.irfft2: _over_two(_irfft, _ifft1, back=True),
    torch.fft.fft2: _over_two(_fft1, _fft1, back=False),
    aten.fft_fft2.default: _over_two(_fft1, _fft1, back=False),
    torch.fft.ifft2: _over_two(_ifft1, _ifft1, back=True),
}  # fmt: skip
"""What makes complex numbers, or takes them, by torch's function."""
