"""MNIST and CIFAR-10 as arrays, dealt out to devices.

The files are those of a folder that the benchmarks are given as ``--data``: ``mnist.npz`` as Keras distributes it, and
``cifar10.tar.gz`` with a folder of JPEG or PNG images a class under ``cifar10/train`` and ``cifar10/test``.
"""

import io
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image


class Images(NamedTuple):
    """Unsigned bytes (samples, channels, height, width), and class numbers."""

    x: np.ndarray
    y: np.ndarray

    def take(self, places: np.ndarray) -> "Images":
        return Images(self.x[places], self.y[places])

    def save(self, path: Path) -> None:
        np.savez(path, x=self.x, y=self.y.astype(np.uint16))


class Dataset(NamedTuple):
    train: Images
    test: Images


def mnist(folder: Path) -> Dataset:
    """60,000 training and 10,000 test images of (1, 28, 28)."""
    with np.load(folder / "mnist.npz") as file:
        return Dataset(*(Images(file[f"x_{part}"][:, None], file[f"y_{part}"]) for part in ("train", "test")))


def cifar10(folder: Path, cache: Path) -> Dataset:
    """50,000 training and 10,000 test images of (3, 32, 32); read once, then from ``cache``."""
    path = cache / "cifar10.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        parts = _unpack(folder / "cifar10.tar.gz")
        np.savez(path, **{f"{part}_{name}": array for part in parts for name, array in parts[part]._asdict().items()})
    with np.load(path) as file:
        return Dataset(*(Images(file[f"{part}_x"], file[f"{part}_y"]) for part in ("train", "test")))


def _unpack(archive: Path) -> dict[str, Images]:
    found: dict[str, list[tuple[str, np.ndarray]]] = {"train": [], "test": []}
    with tarfile.open(archive) as file:
        for member in file:
            _, part, name = member.name.split("/")[:3] if member.isfile() else ("", "", "")
            if part in found:
                stream = file.extractfile(member)
                assert stream is not None
                found[part].append((name, np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB"))))
    classes = sorted({name for name, _ in found["train"]})
    return {
        part: Images(
            np.stack([image for _, image in images]).transpose(0, 3, 1, 2),
            np.array([classes.index(name) for name, _ in images], np.uint8),
        )
        for part, images in found.items()
    }


def deal(y: np.ndarray, devices: int, how: str, seed: int) -> list[np.ndarray]:
    """Which samples each device has: disjoint, and all of them.

    ``iid``: alike to within one sample. ``dirichlet``: each class in proportions drawn from Dirichlet(0.3) (Hsu et al., arXiv
    1909.06335). ``shards``: sorted by class and cut into 5 shards a device, dealt at random (McMahan et al.).
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(y))
    if how == "iid":
        return [np.sort(part) for part in np.array_split(order, devices)]
    if how == "shards":
        shards = np.array_split(order[np.argsort(y[order], kind="stable")], 5 * devices)
        dealt = random.permutation(5 * devices).reshape(devices, 5)
        return [np.sort(np.concatenate([shards[number] for number in own])) for own in dealt]
    if how == "dirichlet":
        parts: list[list[np.ndarray]] = [[] for _ in range(devices)]
        for label in np.unique(y):
            members = order[y[order] == label]
            cuts = (np.cumsum(random.dirichlet([0.3] * devices))[:-1] * len(members)).astype(int)
            for part, own in zip(parts, np.split(members, cuts), strict=True):
                part.append(own)
        return [np.sort(np.concatenate(part)) for part in parts]
    raise ValueError(f"samples are dealt 'iid', 'dirichlet' or 'shards', not {how!r}")
