"""Complex numbers as pairs, and Fourier transforms as products, against torch's own."""

import pytest
import torch

from cutlayer_export.graph.complex_pairs import COMPLEX, ComplexPair

X = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(0))
SIGNAL = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
WINDOW = torch.hamming_window(12)


def pair(x):
    return ComplexPair(x.real, x.imag) if x.is_complex() else x


def close(found, wanted):
    if wanted.is_complex():
        found = torch.complex(found.real, found.imag)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", [None, "backward", "ortho", "forward"])
@pytest.mark.parametrize("options", [{}, {"n": 7}, {"n": 13}, {"dim": 1}])
@pytest.mark.parametrize("name", ["fft", "ifft", "rfft", "irfft"])
def test_a_transform_of_one_axis_equals_torch(name, options, norm):
    function = getattr(torch.fft, name)
    x = X if name == "rfft" else torch.complex(X, X.flip(-1))
    close(COMPLEX[function](pair(x), norm=norm, **options), function(x, norm=norm, **options))


@pytest.mark.parametrize("norm", [None, "ortho", "forward"])
@pytest.mark.parametrize("name", ["fft2", "ifft2", "rfft2", "irfft2"])
def test_a_transform_of_two_axes_equals_torch(name, norm):
    function = getattr(torch.fft, name)
    x = X if name == "rfft2" else torch.complex(X, X.flip(-1))
    close(COMPLEX[function](pair(x), norm=norm), function(x, norm=norm))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hop_length": 5},
        {"win_length": 12, "window": WINDOW},
        {"center": False},
        {"pad_mode": "constant"},
        {"normalized": True},
    ],
)
@pytest.mark.parametrize("signal", [SIGNAL, SIGNAL[0]], ids=["batch", "one"])
def test_a_spectrogram_equals_torch(signal, options):
    options = {"window": torch.ones(options.get("win_length", 16)), **options}
    close(
        COMPLEX[torch.stft](signal, 16, **options, return_complex=True),
        torch.stft(signal, 16, **options, return_complex=True),
    )


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a * b,
        lambda a, b: a / b,
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: 2.0 - a,
        lambda a, b: 1.0 / a,
        lambda a, b: (-a) ** 2,
        lambda a, b: a * b.conj(),
        lambda a, b: a.abs() * b.angle(),
        lambda a, b: torch.abs(a) + torch.view_as_real(b).sum(-1),
        lambda a, b: torch.cat([a, b], 1).transpose(0, 1).sum(0),
        lambda a, b: torch.stack([a, b])[:, 1:].reshape(-1).mean(0),
    ],
)
def test_arithmetic_equals_torch(function):
    a, b = torch.complex(X, X.roll(1)), torch.complex(X.flip(0), X.roll(2))
    close(function(pair(a), pair(b)), function(a, b))


def test_the_gradient_of_a_length_of_zero_is_zero_as_in_torch():
    gradients = []
    for make in (ComplexPair, torch.complex):
        x = torch.tensor([0.0, 3.0], requires_grad=True)
        make(x, x * 0).abs().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
    assert gradients[0].tolist() == [0.0, 1.0]


def test_what_pairs_cannot_do_is_refused_by_name():
    with pytest.raises(NotImplementedError, match="cumsum of complex numbers"):
        torch.cumsum(ComplexPair(X, X), 1)
    with pytest.raises(NotImplementedError, match="sqrt of complex numbers"):
        ComplexPair(X, X).sqrt()
