"""What the commands of ``cutlayer flash`` do and print."""

from pathlib import Path

import msgspec
from rich.console import Console

from cutlayer.errors import UserError
from cutlayer.release import DeviceConfig
from cutlayer_flash.archive import read_archive
from cutlayer_flash.boards import target_of
from cutlayer_flash.building import Contents, build
from cutlayer_flash.ssh import Login, deploy

__all__ = ["build_release", "deploy_release", "explain_release"]


def build_release(
    target: tuple[str, str],
    config: DeviceConfig,
    paths: tuple[Path, Path | None, Path | None, Path | None],
    out: Path,
    lock: Path | None,
    as_json: bool,
) -> None:
    """Build and say what was built. Raises as `build` does.

    Args:
        target: names of board and system.
        config: of the device.
        paths: of the bundle, the certificates, the samples and the meters' settings.
        out: where to.
        lock: of an earlier release.
        as_json: for machines.
    """
    board, contents = target_of(*target), Contents(config, *paths)
    console = Console(stderr=as_json, highlight=False)
    try:
        locked = lock.read_text("utf-8") if lock else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--lock: {error}") from error
    with console.status("") as status:
        built = build(board, contents, out, locked, tell=status.update)
    release = built.release
    if as_json:
        about = {key: value for key, value in msgspec.to_builtins(release).items() if key != "files"}
        print(msgspec.json.encode({"path": str(out), "packed_bytes": built.packed_bytes, **about}).decode())
        return
    console.print(
        f"{out}: release {release.release} of {release.device} for {board.board}, {board.system.title}", soft_wrap=True
    )
    console.print(
        f"  {built.packed_bytes / 1e6:.0f} MB, {release.bytes / 1e6:.0f} MB on the board; Python {release.python}, glibc {release.glibc}"
    )
    if contents.tls is not None:
        console.print("  has the device's key in it: keep it to yourself", soft_wrap=True)


def deploy_release(path: Path, address: str, options: tuple[str, ...], *, start: bool, dry_run: bool) -> None:
    """Onto a board by ssh. Raises as `deploy` does."""
    archive, console = read_archive(path), Console(highlight=False, markup=False)
    login = Login(address, options, dry_run)
    deploy(archive, login, start=start, show=lambda line: console.print(f"  {line}", soft_wrap=True))
    if dry_run:
        console.print("nothing was changed")


def explain_release(path: Path, as_json: bool) -> None:
    """Check a release and say what to do with it. Raises `UserError`."""
    archive = read_archive(path)
    release = archive.release
    steps = [
        f"echo '{archive.sha256}  {path.name}' | sha256sum -c",
        f"tar xzf {path.name}",
        f"sudo python{release.python} {archive.folder}/install.py",
        f"rm -rf {archive.folder} {path.name}",
        "journalctl -fu cutlayer",
    ]
    if as_json:
        print(msgspec.json.encode({"path": str(path), "sha256": archive.sha256, "steps": steps}).decode())
        return
    print(
        f"{path}: whole; release {release.release} of {release.device} for {release.board}, {release.system}. Copy it to the board, and there:"
    )
    for step in steps:
        print(f"  {step}")
