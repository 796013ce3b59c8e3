"""A new bundle or configuration for a device, as one signed file: what may be changed over the air, and nothing else.

Runtime, name, samples, certificates and the update key stay as they were installed.
"""

import io
import zipfile
from typing import Annotated

import msgspec

from cutlayer_core.bundles.release import DeviceConfig
from cutlayer_core.errors import MessageError

__all__ = ["Changes", "Manifest", "pack", "unpack"]

_MANIFEST, _BUNDLE = "update.json", "client.zip"
_MOST_BYTES = 1 << 28
"""Limit on the unpacked size of everything in an update."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Changes(_Record, frozen=True):
    """Changes to a configuration; None leaves a setting as it was installed."""

    broker: str | None = None
    trial: str | None = None
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] | None = None
    energy: str | None = None

    def applied(self, config: DeviceConfig) -> DeviceConfig:
        """The configuration with these changes."""
        own = {key: value for key, value in msgspec.structs.asdict(self).items() if value is not None}
        return msgspec.structs.replace(config, **own)


class Manifest(_Record, frozen=True):
    """``update.json``."""

    device: str
    number: Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]
    """Greater than that of every earlier update, so that an old one cannot be replayed."""
    changes: Changes = Changes()


def pack(manifest: Manifest, bundle: bytes | None) -> bytes:
    """Pack an update into the bytes to be signed; the bundle is one that was exported as a .zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(_MANIFEST), msgspec.json.encode(manifest))
        if bundle is not None:
            archive.writestr(zipfile.ZipInfo(_BUNDLE), bundle)
    return buffer.getvalue()


def unpack(content: bytes) -> tuple[Manifest, bytes | None]:
    """The manifest, and the bundle if there is one. Verify the signature first. Raises `MessageError`."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            if not {_MANIFEST} <= sizes.keys() <= {_MANIFEST, _BUNDLE} or sum(sizes.values()) > _MOST_BYTES:
                raise MessageError(f"an update has {_MANIFEST} and perhaps {_BUNDLE}, this one has {sorted(sizes)[:4]}")
            manifest = msgspec.json.decode(archive.read(_MANIFEST), type=Manifest)
            return manifest, archive.read(_BUNDLE) if _BUNDLE in sizes else None
    except (
        zipfile.BadZipFile,
        msgspec.MsgspecError,
        UnicodeDecodeError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        OSError,
    ) as error:
        raise MessageError(f"an update cannot be read: {error}") from error
