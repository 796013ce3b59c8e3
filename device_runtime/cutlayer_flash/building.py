"""Builds a release for a board: one file, whose bytes are equal for equal inputs."""

import gzip
import hashlib
import shutil
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from cutlayer_core.address import split_address
from cutlayer_core.bundles.bundle import Manifest, read_bundle
from cutlayer_core.bundles.release import CONFIG, FORMAT_VERSION, MANIFEST, PROGRAM, DeviceConfig, Release, hash_of
from cutlayer_core.engines import ENGINES, check_engine
from cutlayer_core.errors import UserError
from cutlayer_core.wire import topics
from cutlayer_core.wire.transports import load_tls
from cutlayer_core.wire.transports.tls import AUTHORITY, CERTIFICATE, KEY
from cutlayer_flash.boards import System, Target
from cutlayer_flash.packages import fetch, lock, requirements
from cutlayer_flash.unit import unit_text

__all__ = ["Built", "Contents", "build"]

_RUNTIME = ("cutlayer_core", "cutlayer_device", "cutlayer_profiles")
_LARGEST_BYTES = 150_000_000
_ONCE = 315_532_800
"""1980, the earliest time that every archive format knows."""
_EXECUTABLE, _SECRET = (PROGRAM,), ("tls/",)

_LAUNCHER = """\
#!/bin/sh
# The release that this file is in, also after "current" has become another one.
here=$(dirname "$(dirname "$(readlink -f "$0")")")
export PYTHONPATH="$here/site"
[ -n "$PYTHONPYCACHEPREFIX" ] || export PYTHONDONTWRITEBYTECODE=1
exec {interpreter} -s -m cutlayer_device "$@"
"""
_INSTALLER = """\
# Run as root on the board, in the unpacked release: python3 install.py [--no-start]
import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(here / "site"))

from cutlayer_device.service.installation import main

main(here, sys.argv[1:])
"""


class Contents(NamedTuple):
    """What goes into a release besides the runtime.

    Attributes:
        config: its paths are those on the board; ``bundle``, ``tls``, ``data`` and ``meters`` are set here, for what is
        included.
        bundle: what `cutlayer export` wrote.
        tls: the device's folder from `cutlayer certs`.
        data: training samples to include; without it, they are already on the board.
        meters: a file with meter settings.
    """

    config: DeviceConfig
    bundle: Path
    tls: Path | None = None
    data: Path | None = None
    meters: Path | None = None


class Built(NamedTuple):
    """What was built: the file, its manifest, and its size."""

    path: Path
    release: Release
    packed_bytes: int


def build(
    target: Target, contents: Contents, out: Path, locked: str = "", tell: Callable[[str], None] = lambda stage: None
) -> Built:
    """Build a release and write it to ``out``, a .tar.gz that only its owner can read if there is a key in it.

    Args:
        target: the board and its system.
        contents: what goes into the release.
        out: where to write it.
        locked: text of an earlier lock.txt, for exactly the same packages; without it, the newest compatible ones.
        tell: called with what is being done.

    Raises:
        UserError: the bundle, the certificates or the configuration are wrong, or the release is too large; nothing is written.
        CutlayerError: the packages cannot be fetched.
    """
    manifest, trial = _check(contents)
    with TemporaryDirectory() as folder:
        root = Path(folder) / "release"
        tell("choosing packages")
        text = locked or lock(requirements(ENGINES[manifest.engine].device_extra), target.system)
        tell("fetching packages")
        fetch(text, target.system, root / "site")
        _copy_runtime(root / "site")
        config = _copy_contents(contents, root)
        (root / "lock.txt").write_text(text, "utf-8")
        _write_programs(root, config, target.system)
        tell("packing")
        release = _describe(root, target, contents.config.name, trial)
        (root / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(release)) + b"\n")
        packed = Path(folder) / "packed"
        _pack(root, f"cutlayer-{release.release}", packed)
        size = packed.stat().st_size
        if size > _LARGEST_BYTES:
            raise UserError(
                f"the release has {size / 1e6:.0f} MB, allowed: {_LARGEST_BYTES / 1e6:.0f} MB: leave --data out and put the samples onto the "
                "board by other means (--data-on-board)"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        _put(packed, out, 0o600 if contents.tls else 0o644)
    return Built(out, release, size)


def _put(packed: Path, out: Path, mode: int) -> None:
    """Copy a file into its place, so that others can at no moment read what they must not."""
    unfinished = out.with_name(f"{out.name}.part")
    unfinished.unlink(missing_ok=True)
    try:
        unfinished.touch(mode=mode)
        with packed.open("rb") as source, unfinished.open("wb") as target:
            shutil.copyfileobj(source, target)
        unfinished.chmod(mode)  # whatever the umask
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


def _check(contents: Contents) -> tuple[Manifest, str]:
    """Check the contents; returns the bundle's manifest and the name of the trial. Raises `UserError`."""
    bundle = read_bundle(contents.bundle)
    bundle.require_certificate()
    topics.check_name(contents.config.name, "--device-id")
    split_address(contents.config.broker, contents.tls is not None)
    if contents.tls is not None:
        load_tls(contents.tls)
    for path in (contents.data, contents.meters):
        if path is not None and not path.exists():
            raise UserError(f"{path}: does not exist")
    check_engine(bundle.manifest.engine, str(contents.bundle))
    return bundle.manifest, topics.check_name(contents.config.trial or bundle.manifest.trial, "the trial name")


def _copy_runtime(site: Path) -> None:
    """Copy our own packages as they are installed here."""
    for name in _RUNTIME:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        shutil.copytree(Path(spec.origin).parent, site / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


def _copy_contents(contents: Contents, root: Path) -> DeviceConfig:
    """Copy what is included; returns the configuration with the resulting paths."""
    paths: dict[str, str] = {}
    for key, source in (("bundle", contents.bundle), ("data", contents.data), ("meters", contents.meters)):
        if source is None:
            continue
        name = {"bundle": "client", "data": "data", "meters": "meters"}[key] + source.suffix
        paths[key] = name
        if source.is_dir():
            shutil.copytree(source, root / name)
        else:
            shutil.copyfile(source, root / name)
    if contents.tls is not None:
        paths["tls"] = "tls"
        (root / "tls").mkdir()
        for name in (AUTHORITY, CERTIFICATE, KEY):
            shutil.copyfile(contents.tls / name, root / "tls" / name)
    return msgspec.structs.replace(contents.config, **paths)


def _write_programs(root: Path, config: DeviceConfig, system: System) -> None:
    fields = {key: value for key, value in msgspec.to_builtins(config).items() if value not in ("", 0)}
    (root / CONFIG).write_bytes(msgspec.toml.encode(fields))
    (root / "bin").mkdir()
    (root / PROGRAM).write_text(_LAUNCHER.format(interpreter=system.interpreter), "utf-8")
    (root / "cutlayer.service").write_text(unit_text(tls=bool(config.tls)), "utf-8")
    (root / "install.py").write_text(_INSTALLER, "utf-8")


def _describe(root: Path, target: Target, device: str, trial: str) -> Release:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    files = {path.relative_to(root).as_posix(): hash_of(path) for path in paths}
    system = target.system
    return Release(
        format_version=FORMAT_VERSION,
        release=hashlib.sha256(msgspec.json.encode([target, device, trial, sorted(files.items())])).hexdigest()[:12],
        board=target.board,
        system=target.os,
        machine=system.machine,
        python=".".join(map(str, system.python)),
        glibc=f"2.{system.glibc}",
        device=device,
        trial=trial,
        files=files,
        bytes=sum(path.stat().st_size for path in paths),
    )


def _pack(root: Path, name: str, out: Path) -> None:
    """Write an archive that depends on nothing but names and contents."""
    with (
        out.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in sorted(root.rglob("*")):
            inner = path.relative_to(root).as_posix()
            info = archive.gettarinfo(path, f"{name}/{inner}")
            info.uid = info.gid = 0
            info.uname = info.gname = "root"
            info.mtime = _ONCE
            info.mode = _mode(inner, directory=path.is_dir())
            if path.is_dir():
                archive.addfile(info)
            else:
                with path.open("rb") as file:
                    archive.addfile(info, file)


def _mode(inner: str, *, directory: bool) -> int:
    secret = f"{inner}/".startswith(_SECRET)
    if directory or inner in _EXECUTABLE:
        return 0o700 if secret else 0o755
    return 0o600 if secret else 0o644
