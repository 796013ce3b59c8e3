"""A bundle: the client-side model as a board runs it. A directory, or one ``.zip`` of it.

    manifest.json        what it is; the SHA-256 of every other file
    params.safetensors   initial parameters, buffers and optimizer state
    forward.<engine>     x, parameters, buffers -> smashed data, new buffers
    backward.<engine>    x, cut gradient, parameters, buffers, state, learning rate -> new parameters and state
    certificate.json     how far the two graphs are from torch autograd

Inputs and outputs of the graphs are named: ``x``, ``z``, ``g``, ``learning_rate``; ``params.<name>``,
``buffers.<name>``, ``state.<name>``; an output ``new_<input>`` replaces that input in the next step.
"""

import hashlib
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from cutlayer.errors import UserError
from cutlayer.optimizers import Sgd

__all__ = ["Bundle", "Certificate", "Client", "Manifest", "Spec", "read_bundle", "write_bundle"]

FORMAT_VERSION = 1
TOLERANCE = 1e-4
"""Largest relative error against torch autograd with which a bundle may train."""
MAX_FILE_BYTES = 1 << 30
_MANIFEST, _PARAMS, _CERTIFICATE = "manifest.json", "params.safetensors", "certificate.json"
_Arrays = dict[str, NDArray[Any]]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Spec(_Record, frozen=True):
    """Shape and dtype of one tensor; the batch dimension is left out."""

    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    dtype: str = "float32"


class Client(_Record, frozen=True):
    """The client-side model and its input: equal fingerprints mean that board and server train the same one."""

    factory: str
    kwargs: dict[str, Any]
    cut: str
    input: Spec
    smashed: Spec
    params: dict[str, Spec]
    buffers: dict[str, Spec]
    optimizer: Sgd
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of the above, in hexadecimal."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class Manifest(_Record, frozen=True):
    """``manifest.json``."""

    format_version: int
    trial: str
    client: Client
    engine: str
    opset: int
    versions: dict[str, str]
    files: dict[str, str]


class Certificate(_Record, frozen=True):
    """``certificate.json``: greatest relative errors against torch autograd, a tensor each (see `cutlayer_export`)."""

    steps: int
    batch_sizes: tuple[int, ...]
    smashed: float
    params: dict[str, float]
    buffers: dict[str, float]
    state: dict[str, float]

    @property
    def worst(self) -> float:
        """The greatest of all errors, infinite if one is not a number."""
        errors = [self.smashed, *self.params.values(), *self.buffers.values(), *self.state.values()]
        return max(math.inf if math.isnan(error) else error for error in errors)

    @property
    def valid(self) -> bool:
        """Whether a board may train with the bundle."""
        return self.worst <= TOLERANCE


class Bundle:
    """A verified bundle in memory."""

    def __init__(self, manifest: Manifest, files: Mapping[str, bytes], certificate: Certificate | None) -> None:
        self.manifest, self.certificate, self._files = manifest, certificate, files

    def graph(self, name: str) -> bytes:
        """The graph "forward" or "backward"."""
        return self._files[f"{name}.{self.manifest.engine}"]

    def arrays(self) -> _Arrays:
        """Initial values by graph input name: ``params.*``, ``buffers.*``, ``state.*``."""
        return dict(load_safetensors(self._files[_PARAMS]))

    def require_certificate(self) -> None:
        """Raise `UserError` unless the bundle may train."""
        if self.certificate is None:
            raise UserError("the bundle has no certificate.json, so it may not train: export it again")
        if not self.certificate.valid:
            raise UserError(
                f"the bundle's certificate shows an error of {self.certificate.worst:.1e} against torch autograd, "
                f"more than {TOLERANCE:.0e}, so it may not train: export it again"
            )


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write a bundle: a zip if ``path`` ends in .zip, else a directory. Returns the manifest with its file hashes."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    manifest = msgspec.structs.replace(manifest, files=hashes)
    everything = {**files, _MANIFEST: msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sorted(everything.items()):
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        return manifest
    path.mkdir(exist_ok=True)
    for name, content in everything.items():
        (path / name).write_bytes(content)
    return manifest


def read_bundle(path: Path) -> Bundle:
    """Read a bundle and check every file against the manifest.

    Raises:
        UserError: missing, truncated, edited, or of another format version; the text says which file.
    """
    manifest = _read_manifest(path, _read_file(path, _MANIFEST))
    files = {}
    for name, wanted in manifest.files.items():
        if Path(name).name != name:
            raise UserError(f"bundle {path}: the manifest names {name!r}, which is not a plain file name")
        files[name] = _read_file(path, name)
        if hashlib.sha256(files[name]).hexdigest() != wanted:
            raise UserError(f"bundle {path}: {name} was changed after export (its SHA-256 differs): export it again")
    for name in (_PARAMS, f"forward.{manifest.engine}", f"backward.{manifest.engine}"):
        if name not in files:
            raise UserError(f"bundle {path}: the manifest does not list {name}: export it again")
    _check_params(path, manifest.client, files[_PARAMS])
    certificate = None
    if _CERTIFICATE in files:
        try:
            certificate = msgspec.json.decode(files[_CERTIFICATE], type=Certificate)
        except msgspec.MsgspecError as error:
            raise UserError(f"bundle {path}: {_CERTIFICATE} cannot be read: {error}") from error
    return Bundle(manifest, files, certificate)


def _read_manifest(path: Path, content: bytes) -> Manifest:
    try:
        version = msgspec.json.decode(content).get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(f"bundle {path}: has format version {version}, this cutlayer reads {FORMAT_VERSION}")
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, AttributeError) as error:
        raise UserError(f"bundle {path}: {_MANIFEST} cannot be read, export it again: {error}") from error


def _read_file(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            with (path / name).open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        else:
            with zipfile.ZipFile(path) as archive, archive.open(name) as member:
                content = member.read(MAX_FILE_BYTES + 1)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"bundle {path}: {name} cannot be read: {error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"bundle {path}: {name} is larger than {MAX_FILE_BYTES} bytes")
    return content


def _check_params(path: Path, client: Client, content: bytes) -> None:
    try:
        arrays: _Arrays = load_safetensors(content)
    except SafetensorError as error:
        raise UserError(f"bundle {path}: {_PARAMS} cannot be read: {error}") from error
    wanted = {f"params.{name}": spec for name, spec in client.params.items()}
    wanted |= {f"buffers.{name}": spec for name, spec in client.buffers.items()}
    for name, spec in wanted.items():
        array = arrays.get(name)
        if array is None or array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
            raise UserError(f"bundle {path}: {_PARAMS} does not hold {name} as the manifest describes it")
