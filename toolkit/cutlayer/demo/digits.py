"""scikit-learn's handwritten digits, divided as a trial needs them: 1,797 grey images of 8x8 pixels."""

from pathlib import Path

import numpy as np

__all__ = ["write_digits"]

TEST_SAMPLES = 360


def write_digits(folder: Path, devices: list[str], seed: int = 1) -> None:
    """Write ``test.npz``, and for each device ``<device>.npz`` with its own share of the remaining samples.

    Pixels are scaled from 0..16 to 0..255. The shares do not overlap and are equal to within one sample.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    y = digits.target.astype(np.uint16)
    order = np.random.default_rng(seed).permutation(len(y))
    folder.mkdir(parents=True, exist_ok=True)
    shares = [order[:TEST_SAMPLES], *np.array_split(order[TEST_SAMPLES:], len(devices))]
    for name, share in zip(["test", *devices], shares, strict=True):
        np.savez(folder / f"{name}.npz", x=x[share], y=y[share])
