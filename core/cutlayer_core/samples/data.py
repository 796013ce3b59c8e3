"""Labelled samples without torch: an ``.npz``, or a folder of images with one sub-folder per class.

Equal seeds give the same batches in the same order on any machine.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.errors import UserError
from cutlayer_core.trial.recipe import InputSpec
from cutlayer_core.wire.messages import Augmentation

__all__ = [
    "IMAGES",
    "Batch",
    "Preparation",
    "Samples",
    "as_stored",
    "batches",
    "load",
    "read_image",
    "takes_images",
    "whole",
]

_KEYS = {"train": (("x", "y"), ("x_train", "y_train")), "test": (("x", "y"), ("x_test", "y_test"))}
IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
"""Suffixes of image files."""


class Samples(NamedTuple):
    """``x``: N samples of one shape, uint8, float32 or int64. ``y``: N class numbers, uint16."""

    x: NDArray[Any]
    y: NDArray[np.uint16]


class Batch(NamedTuple):
    """``x``: B samples, prepared. ``y``: uint16, B class numbers."""

    x: NDArray[Any]
    y: NDArray[np.uint16]


class Preparation(NamedTuple):
    """How stored samples become model inputs.

    Pixels are scaled to 0..1, then ``(x - mean) / std`` per channel; integers such as tokens stay as they are.
    """

    input: InputSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """Convert B stored samples to the model's dtype, with shape (B, *input)."""
        if self.input.dtype != "float32":
            return x.reshape(-1, *self.input.shape).astype(self.input.dtype, copy=False)
        broadcast = (-1,) + (1,) * (len(self.input.shape) - 1)
        mean, std = (np.asarray(each, np.float32).reshape(broadcast) for each in (self.mean, self.std))
        scale = np.float32(1 / 255) if x.dtype == np.uint8 else np.float32(1)
        prepared: NDArray[np.float32] = (x.reshape(-1, *self.input.shape) * scale - mean) / std
        return prepared.astype(np.float32, copy=False)


def load(path: Path, spec: InputSpec, classes: tuple[str, ...] = (), part: str = "train") -> Samples:
    """Load labelled samples that fit ``spec``.

    Args:
        path: an ``.npz`` with ``x`` and ``y`` (or ``x_train``/``y_train`` and ``x_test``/``y_test``), or a folder.
        spec: one sample; images are channels, height, width.
        classes: names of a folder's sub-folders, in the order of their class numbers.
        part: "train" or "test", which of the two pairs of names is meant.

    Raises:
        UserError: nothing there, the wrong arrays, or samples of another shape; the text says what to change.
    """
    if not path.exists():
        raise UserError(f"data {path}: does not exist; give an .npz file or a folder with one sub-folder a class")
    input_shape = spec.shape
    samples = _load_folder(path, spec, classes) if path.is_dir() else _load_npz(path, spec, part)
    if len(samples.x) == 0 or len(samples.x) != len(samples.y):
        raise UserError(f"data {path}: found {len(samples.x)} samples and {len(samples.y)} labels, allowed: as many")
    without_channel = input_shape[1:] if input_shape[0] == 1 else input_shape
    if samples.x.shape[1:] not in (input_shape, without_channel, (math.prod(input_shape),)):
        found, wanted = samples.x.shape[1:], input_shape
        raise UserError(
            f"data {path}: samples have shape {found}, which does not fit the model's input {wanted}"
            " (images are channels, height, width)"
        )
    return samples


def batches(
    samples: Samples, prepare: Preparation, size: int, seed: tuple[int, ...], augmentation: Augmentation
) -> Iterator[Batch]:
    """Every sample once, in an order and augmented as ``seed`` alone decides; the last batch may be smaller."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    order = generator.permutation(len(samples.y))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        x = samples.x[chosen].reshape(-1, *prepare.input.shape)
        yield Batch(prepare(_augment(x, augmentation, generator)), samples.y[chosen])


def whole(samples: Samples, prepare: Preparation, size: int) -> Iterator[Batch]:
    """Every sample once, in stored order, unchanged: for evaluation."""
    for start in range(0, len(samples.y), size):
        yield Batch(prepare(samples.x[start : start + size]), samples.y[start : start + size])


def _augment(x: NDArray[Any], augmentation: Augmentation, generator: np.random.Generator) -> NDArray[Any]:
    """Mirror half of the images, and shift each by up to ``crop`` pixels over a border of zeros."""
    if augmentation.flip:
        mirrored = generator.random(len(x)) < 0.5
        x = np.where(mirrored[:, None, None, None], x[..., ::-1], x)
    if augmentation.crop:
        margin, (height, width) = augmentation.crop, x.shape[2:]
        padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
        top, left = generator.integers(0, 2 * margin + 1, (2, len(x)))
        x = windows[np.arange(len(x)), :, top, left]
    return x


def _load_npz(path: Path, spec: InputSpec, part: str) -> Samples:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = next((pair for pair in _KEYS[part] if set(pair) <= set(archive.files)), None)
            names = archive.files
            x, y = (archive[name] for name in found) if found else (np.empty(0), np.empty(0))
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"data {path}: is not an .npz of plain arrays: {error}") from error
    if found is None:
        allowed = " or ".join(f"{x_name!r} with {y_name!r}" for x_name, y_name in _KEYS[part])
        raise UserError(f"data {path}: found arrays {names}, allowed: {allowed}")
    x = as_stored(path, x, spec)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or y.min(initial=0) < 0 or y.max(initial=0) > 0xFFFF:
        raise UserError(f"data {path}: labels are {y.dtype}{y.shape}, allowed: one whole number from 0 to 65535 each")
    return Samples(x, y.astype(np.uint16))


def as_stored(path: Path, x: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    """Samples as they are kept in memory: uint8 for pixels, float32, or int64 within the range.

    Raises:
        UserError: anything else; ``path`` says where the samples come from.
    """
    if spec.dtype == "int64":
        if not np.issubdtype(x.dtype, np.integer) or x.min(initial=spec.low) < spec.low or x.max(initial=0) > spec.high:
            raise UserError(
                f"data {path}: samples are {x.dtype}, allowed: whole numbers from {spec.low} to {spec.high}"
            )
        return x.astype(np.int64)
    if np.issubdtype(x.dtype, np.integer):
        if x.min(initial=0) < 0 or x.max(initial=0) > 255:
            raise UserError(f"data {path}: samples are {x.dtype} up to {x.max()}, allowed: 0 to 255, or floats")
        return x.astype(np.uint8)
    if not np.issubdtype(x.dtype, np.floating):
        raise UserError(f"data {path}: samples are {x.dtype}, allowed: numbers")
    return x.astype(np.float32)


def _load_folder(path: Path, spec: InputSpec, classes: tuple[str, ...]) -> Samples:
    """Images as uint8 in channels, height, width; the class number is the index of the sub-folder in ``classes``."""
    if not takes_images(spec):
        raise UserError(
            f"data {path}: a folder of images needs an input of 1 or 3 channels, the model's is {spec.shape}"
        )
    folders = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    unknown = [each.name for each in folders if each.name not in classes]
    if unknown:
        raise UserError(
            f"data {path}: found the classes {unknown}, allowed: {list(classes)}; name them in the trial file's "
            "data.classes, in the order of the model's outputs, and export again"
        )
    files = [(file, classes.index(folder.name)) for folder in folders for file in sorted(folder.iterdir())]
    files = [(file, label) for file, label in files if file.suffix.lower() in IMAGES]
    if not files:
        raise UserError(f"data {path}: holds no images in sub-folders; allowed: <folder>/<class>/<image>.png or .jpg")
    x = np.empty((len(files), *spec.shape), np.uint8)
    for row, (file, _) in zip(x, files, strict=True):
        row[...] = read_image(file, spec)
    return Samples(x, np.array([label for _, label in files], np.uint16))


def takes_images(spec: InputSpec) -> bool:
    """Whether the model's input can be made from an image."""
    return len(spec.shape) == 3 and spec.shape[0] in (1, 3) and spec.dtype == "float32"


def read_image(file: Path, spec: InputSpec) -> NDArray[np.uint8]:
    """An image as channels, height, width, resized and made grey as ``spec`` requires.

    Raises:
        UserError: it cannot be read, or Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError(
            f"data {file}: reading images needs Pillow: pip install 'cutlayer[images]', or give the samples as an .npz"
        ) from error

    mode, (height, width) = ("L" if spec.shape[0] == 1 else "RGB"), spec.shape[1:]
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert(mode).resize((width, height), Image.Resampling.BILINEAR))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"data {file}: cannot be read as an image: {error}") from error
    return pixels.reshape(height, width, -1).transpose(2, 0, 1)
