"""A bundle: the client-side model as a board runs it, stored as a directory or as a ``.zip`` of one.

    manifest.json         what the bundle is, and the SHA-256 of every other file
    params.safetensors    initial parameters, buffers and optimizer state
    inference.<engine>    x, parameters, buffers -> smashed data, in eval mode
    forward.<engine>      x, parameters, buffers -> smashed data, new buffers, saved tensors, in train mode
    backward.<engine>     x, cut gradient, saved tensors, parameters, state, learning rate -> new parameters and state
    <graph>@<arrangement>.<engine>  the same training graphs, arranged in another way: see `names.ARRANGEMENTS`
    <graph>-filters.<engine>  parameters, buffers -> convolution weights, if the file of that graph stores them
    certificate.json      how much the graphs differ from torch

A bundle of a frozen client or a whole model has only the first three files and the last. Only some TFLite bundles have
filters.

Inputs and outputs of the graphs are named: ``x``, ``z``, ``g``, ``learning_rate``, ``step``, ``seed``;
``params.<name>``, ``buffers.<name>``, ``state.<name>``. An output ``new_<input>`` replaces that input in the next step;
``saved.<number>`` goes from forward to backward. Each output of a filters graph is named after the byte offset at which
it belongs in the file. Whatever never changes is stored inside the graphs.
"""

import hashlib
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from cutlayer_core.bundles.certificate import TOLERANCE, Certificate
from cutlayer_core.bundles.contents import Contents
from cutlayer_core.bundles.names import (
    ARRANGEMENTS,
    CERTIFICATE,
    MANIFEST,
    PARAMS,
    allowed_files,
    every_file,
    in_arrangement,
    wanted_files,
)
from cutlayer_core.engines import check_engine
from cutlayer_core.errors import UserError
from cutlayer_core.trial.optimizers import Optimizer
from cutlayer_core.trial.recipe import InputSpec, Spec

__all__ = ["Bundle", "Client", "Manifest", "check_place", "read_bundle", "write_bundle"]

FORMAT_VERSION = 3
_Arrays = dict[str, NDArray[Any]]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Client(_Record, frozen=True):
    """The client-side model and its input: equal fingerprints mean that board and server train the same one."""

    factory: str
    kwargs: dict[str, Any]
    cut: str
    input: InputSpec
    smashed: Spec
    params: dict[str, Spec]
    """Trained parameters; together with ``buffers`` they are the client weights that travel."""
    buffers: dict[str, Spec]
    """Buffers that a forward pass in train mode changes."""
    constants: str
    """SHA-256 of everything else, which is stored inside the graphs."""
    optimizer: Optimizer | None
    """None if the bundle cannot be trained."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of the above, in hexadecimal."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class Manifest(_Record, frozen=True, omit_defaults=True):
    """``manifest.json``."""

    format_version: int
    trial: str
    client: Client
    engine: str
    opset: int
    """Version of the ONNX operator set, or of the TFLite schema."""
    versions: dict[str, str]
    files: dict[str, str]
    target: str = ""
    """What the TFLite graphs are built for: xnnpack or generic."""
    precision: str = "float32"
    """Precision of the inference graph: float32, float16 or int8."""
    arrangements: tuple[str, ...] = ()
    """Those of `names.ARRANGEMENTS` that the bundle holds besides its own, for `cutlayer device tune`."""
    tables: tuple[str, ...] = ()
    """Parameters of which the training graphs take, and backward gives, the rows that occur in a batch; the further inputs
    are those of `tables.Table.given`."""


class Bundle:
    """A verified bundle in memory."""

    def __init__(self, manifest: Manifest, files: Mapping[str, bytes], certificate: Certificate | None) -> None:
        self.manifest, self.certificate, self._files = manifest, certificate, files

    def graph(self, name: str) -> bytes:
        """The graph "inference", "forward" or "backward", or the `filters_of` one of them."""
        return self._files[f"{name}.{self.manifest.engine}"]

    def has_graph(self, name: str) -> bool:
        """Whether there is a graph of this name."""
        return f"{name}.{self.manifest.engine}" in self._files

    def arranged(self, arrangement: str) -> "Bundle":
        """The same bundle, which trains by the graphs of one of its manifest's ``arrangements``. Raises `UserError`."""
        if arrangement not in self.manifest.arrangements:
            raise UserError(f"the bundle has no arrangement {arrangement!r}: run `cutlayer device tune` again")
        ending = in_arrangement("", arrangement) + f".{self.manifest.engine}"
        others = {name: content for name, content in self._files.items() if name.endswith(ending)}
        kept = {name: each for name, each in self._files.items() if not name.startswith(("forward", "backward"))}
        own = {name.replace(in_arrangement("", arrangement), ""): content for name, content in others.items()}
        return Bundle(self.manifest, kept | own, self.certificate)

    def arrays(self) -> _Arrays:
        """Initial values by graph input name: ``params.*``, ``buffers.*``, ``state.*``."""
        return dict(load_safetensors(self._files[PARAMS]))

    def write(self, path: Path) -> Manifest:
        """Write it to another place; see `write_bundle`."""
        return write_bundle(path, self.manifest, self._files)

    def require_certificate(self) -> None:
        """Raise `UserError` unless the bundle may be used."""
        if self.certificate is None:
            raise UserError("the bundle has no certificate.json, so it may not be used: export it again")
        found = self.certificate.errors.keys() | self.certificate.arrangements.keys()
        missing = self._wanted_errors() - found
        if missing:
            raise UserError(f"the bundle's certificate says nothing of {min(missing)}: export it again")
        if not self.certificate.valid:
            raise UserError(
                f"the bundle's certificate shows an error of {self.certificate.worst:.1e} against torch, "
                f"more than {TOLERANCE:.0e}, so it may not be used: export it again"
            )

    def require_training(self) -> None:
        """Raise `UserError` unless the bundle may train."""
        self.require_certificate()
        if self.manifest.client.optimizer is None:
            raise UserError("the bundle holds a frozen model, which cannot be trained: export it without --freeze")

    def _wanted_errors(self) -> set[str]:
        client = self.manifest.client
        if client.optimizer is None:
            return {"inference.z"}
        trained = {f"{kind}.{name}" for kind in ("params", "gradients") for name in client.params}
        buffers = {f"buffers.{name}" for name in client.buffers}
        return {"inference.z", "z"} | trained | buffers | set(self.manifest.arrangements)


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write a bundle: a zip if ``path`` ends in .zip, else a directory. Returns the manifest with its file hashes."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    manifest = msgspec.structs.replace(manifest, files=hashes)
    everything = {**files, MANIFEST: msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sorted(everything.items()):
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        return manifest
    path.mkdir(exist_ok=True)
    for name in every_file() - everything.keys():  # of a bundle for another engine
        (path / name).unlink(missing_ok=True)
    for name, content in everything.items():
        (path / name).write_bytes(content)
    return manifest


def check_place(path: Path) -> None:
    """Raise `UserError` if a bundle written to ``path`` would lie among files that belong to no bundle."""
    others = {each.name for each in path.iterdir()} - every_file() if path.is_dir() else set()
    if others:
        raise UserError(
            f"--out: {path} holds {min(others)!r}; give the bundle a folder of its own, or a name with .zip"
        )


def read_bundle(path: Path) -> Bundle:
    """Read a bundle and check every file against the manifest.

    Raises:
        UserError: missing, truncated, edited, too large, or of another format version or engine; the text says which
            file.
    """
    contents, files = Contents(path), {}
    manifest = _read_manifest(path, contents.read(MANIFEST))
    check_engine(manifest.engine, f"bundle {path}")
    contents.require_only({MANIFEST, *manifest.files})
    if unknown := set(manifest.arrangements) - {*ARRANGEMENTS}:
        raise UserError(
            f"bundle {path}: the manifest names the arrangement {min(unknown)!r}, which this cutlayer lacks"
        )
    about = manifest.engine, manifest.client.optimizer is not None, manifest.arrangements
    for name, wanted in manifest.files.items():
        if name not in allowed_files(*about):
            raise UserError(f"bundle {path}: the manifest names {name!r}, which no bundle of its kind has")
        files[name] = contents.read(name)
        if hashlib.sha256(files[name]).hexdigest() != wanted:
            raise UserError(f"bundle {path}: {name} was changed after export (its SHA-256 differs): export it again")
    for name in sorted(wanted_files(*about)):
        if name not in files:
            raise UserError(f"bundle {path}: the manifest does not list {name}: export it again")
    _check_client(path, manifest.client)
    _check_params(path, manifest.client, files[PARAMS])
    certificate = None
    if CERTIFICATE in files:
        try:
            certificate = msgspec.json.decode(files[CERTIFICATE], type=Certificate)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise UserError(f"bundle {path}: {CERTIFICATE} cannot be read: {error}") from error
    return Bundle(manifest, files, certificate)


def _read_manifest(path: Path, content: bytes) -> Manifest:
    try:
        version = msgspec.json.decode(content).get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(
                f"bundle {path}: has format version {version}, this cutlayer reads {FORMAT_VERSION}: export it again"
            )
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, AttributeError, RecursionError, UnicodeDecodeError) as error:
        raise UserError(f"bundle {path}: {MANIFEST} cannot be read, export it again: {error}") from error


def _check_client(path: Path, client: Client) -> None:
    """Check what types alone cannot express about the input and its preparation."""
    shape = client.input.shape
    lengths = {1, shape[0]} if shape else {1}
    fits = len(client.mean) in lengths and len(client.std) in lengths
    if not shape or 0 in shape or client.input.dtype not in ("float32", "int64"):
        raise UserError(f"bundle {path}: the manifest describes an input that cannot be: {shape} {client.input.dtype}")
    if not fits or 0.0 in client.std or not all(map(math.isfinite, (*client.mean, *client.std))):
        raise UserError(f"bundle {path}: the manifest's mean or std does not fit its input")


def _check_params(path: Path, client: Client, content: bytes) -> None:
    """Check that parameters and buffers are exactly those of the manifest, and that all tensors are finite."""
    try:
        arrays: _Arrays = load_safetensors(content)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"bundle {path}: {PARAMS} cannot be read: {error}") from error
    wanted = {f"params.{name}": spec for name, spec in client.params.items()}
    wanted |= {f"buffers.{name}": spec for name, spec in client.buffers.items()}
    states = {name: array for name, array in arrays.items() if name.startswith("state.")}
    for name, spec in wanted.items():
        array = arrays.get(name)
        if array is None or array.shape != spec.shape or str(array.dtype) != spec.dtype:
            raise UserError(f"bundle {path}: {PARAMS} does not hold {name} as the manifest describes it")
    for name in arrays.keys() - wanted.keys() - states.keys():
        raise UserError(f"bundle {path}: {PARAMS} holds {name}, which the manifest does not describe")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(f"bundle {path}: {name} has entries that are not finite")
