"""A release: the folder that a laptop puts onto a board, with the runtime, a bundle, a configuration and a manifest.

release.json        what is in it, and for which board
config.toml         who the device is, and which trial it takes part in
client.zip          the bundle
site/               Python packages, including ours
bin/cutlayer-device runs ``python -m cutlayer_device`` with these
cutlayer.service    the systemd unit
install.py          puts everything in its place
lock.txt            which packages, with their hashes
tls/                certificates and the key, if the broker requires them
data.npz or data/   training samples, if they are included
"""

import hashlib
from pathlib import Path
from typing import Annotated

import msgspec

from cutlayer_core.errors import UserError

__all__ = ["CONFIG", "MANIFEST", "PROGRAM", "DeviceConfig", "Release", "check_files", "hash_of", "read_release"]

MANIFEST, CONFIG, PROGRAM = "release.json", "config.toml", "bin/cutlayer-device"
FORMAT_VERSION = 1
_CHUNK_BYTES = 1 << 20


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class DeviceConfig(_Record, frozen=True):
    """``config.toml``: what `cutlayer device service` is to do. Paths are relative to the file's folder."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    """Name of this device in the trial file."""
    broker: Annotated[str, msgspec.Meta(min_length=1)]
    """HOST or HOST:PORT."""
    data: Annotated[str, msgspec.Meta(min_length=1)]
    """Training samples: an .npz, or a folder with one sub-folder per class."""
    bundle: str = "client.zip"
    trial: str = ""
    """The trial to take part in; if empty, the one that the bundle was exported for."""
    tls: str = ""
    """The folder with this device's certificates; if empty, nothing is encrypted."""
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Threads of the engine; 0 leaves the number to the engine."""
    energy: str = "auto"
    """auto, none, or require=measured."""
    meters: str = ""
    """A file with meter settings."""
    update_key: str = ""
    """Base64 of the Ed25519 public key whose owner may send new bundles and configurations; if empty, nobody may."""


class Release(_Record, frozen=True):
    """``release.json``."""

    format_version: int
    release: str
    """Its identifier: the first characters of a hash over all of its contents."""
    board: str
    system: str
    machine: str
    """As ``platform.machine()`` reports it."""
    python: str
    """Major and minor version, as in 3.11."""
    glibc: str
    """The oldest version that the packages run with."""
    device: str
    trial: str
    files: dict[str, str]
    """SHA-256 by path, for every file but this one."""
    bytes: int
    """Total size of all files."""


def read_release(folder: Path) -> Release:
    """Read the manifest of a release. Raises `UserError` if there is none, or it cannot be read."""
    path = folder / MANIFEST
    try:
        release = msgspec.json.decode(path.read_bytes(), type=Release)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a release of cutlayer: {error}") from error
    if release.format_version != FORMAT_VERSION:
        raise UserError(f"{path}: has format version {release.format_version}, this cutlayer reads {FORMAT_VERSION}")
    return release


def check_files(folder: Path, release: Release) -> None:
    """Raise `UserError` if a file is missing, was changed, or does not belong."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    if odd := sorted(found ^ release.files.keys()):
        state = "is missing" if odd[0] in release.files else "does not belong here"
        raise UserError(f"{folder}: {odd[0]} {state}: the copy is not whole; copy it again")
    for name, wanted in release.files.items():
        if hash_of(folder / name) != wanted:
            raise UserError(f"{folder}: {name} is not what was built (its SHA-256 differs): copy it again")


def hash_of(path: Path) -> str:
    """SHA-256 of a file, read in parts because a board has little memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_CHUNK_BYTES):
            digest.update(part)
    return digest.hexdigest()
