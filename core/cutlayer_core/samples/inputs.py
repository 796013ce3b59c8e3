"""Inputs to be classified: image files, folders of them, or arrays; labels are not needed, but used if present."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.errors import UserError
from cutlayer_core.samples import data
from cutlayer_core.trial.recipe import InputSpec

__all__ = ["Inputs", "read_inputs"]


class Inputs(NamedTuple):
    """``names``: one per sample. ``x``: stored samples, see `data.Samples`. ``y``: class numbers, or None."""

    names: list[str]
    x: NDArray[Any]
    y: NDArray[np.uint16] | None = None


def read_inputs(paths: list[Path], spec: InputSpec, part: str = "test") -> Inputs:
    """Everything at ``paths``: images, folders of images at any depth, ``.npy`` and ``.npz`` of samples.

    Raises:
        UserError: nothing there, or not an input of this model.
    """
    found = [each for path in paths for each in _read(path, spec, part)]
    labels = [each.y for each in found]
    y = None if any(each is None for each in labels) else np.concatenate([each for each in labels if each is not None])
    return Inputs([name for each in found for name in each.names], np.concatenate([each.x for each in found]), y)


def _read(path: Path, spec: InputSpec, part: str) -> Iterator[Inputs]:
    if path.suffix == ".npz":
        samples = data.load(path, spec, part=part)
        yield Inputs(_numbered(path, samples.x), _shaped(path, samples.x, spec), samples.y)
    elif path.suffix == ".npy":
        x = np.atleast_1d(data.as_stored(path, _array(path), spec))
        yield Inputs(_numbered(path, x), _shaped(path, x, spec))
    else:
        yield _images(path, spec)


def _images(path: Path, spec: InputSpec) -> Inputs:
    if not data.takes_images(spec):
        raise UserError(
            f"input {path}: the model takes {spec.dtype} of shape {spec.shape}; give an .npy or .npz of them"
        )
    files = sorted(each for each in path.rglob("*") if each.suffix.lower() in data.IMAGES) if path.is_dir() else [path]
    if not path.exists() or not files:
        raise UserError(f"input {path}: {'holds no images' if path.exists() else 'does not exist'}")
    return Inputs([str(file) for file in files], np.stack([data.read_image(file, spec) for file in files]))


def _array(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"input {path}: is no .npy of plain numbers: {error}") from error
    return array


def _shaped(path: Path, x: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
    try:
        return x.reshape(-1, *spec.shape)
    except ValueError as error:
        raise UserError(f"input {path}: found shape {x.shape}, allowed: (samples, {spec.shape})") from error


def _numbered(path: Path, x: NDArray[Any]) -> list[str]:
    return [f"{path}[{number}]" for number in range(len(x))]
