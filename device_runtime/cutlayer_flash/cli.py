"""What the commands of ``cutlayer flash`` do and print."""

import time
from contextlib import closing
from getpass import getpass
from pathlib import Path

import msgspec
from rich.console import Console

from cutlayer_core.address import split_address
from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_core.bundles.release import DeviceConfig
from cutlayer_core.bundles.update import Changes, Manifest, pack
from cutlayer_core.errors import UserError
from cutlayer_core.wire import topics
from cutlayer_core.wire.chunks import MAX_MESSAGE_BYTES
from cutlayer_core.wire.presence import new_epoch
from cutlayer_core.wire.transports import LastWill, MqttTransport, load_tls
from cutlayer_flash.archive import read_archive
from cutlayer_flash.boards import target_of
from cutlayer_flash.boot import ImageBoot, MountedBoot, first_boot_of
from cutlayer_flash.building import Contents, build
from cutlayer_flash.first_boot import write_first_boot
from cutlayer_flash.sending import Sender, sign
from cutlayer_flash.setup import Setup, Wifi
from cutlayer_flash.ssh import Login, deploy

__all__ = ["build_release", "deploy_release", "explain_release", "prepare_card", "send_update"]


def build_release(
    target: tuple[str, str],
    config: DeviceConfig,
    paths: tuple[Path, Path | None, Path | None, Path | None],
    out: Path,
    lock: Path | None,
    as_json: bool,
) -> None:
    """Build a release and print what was built. Raises as `build` does.

    Args:
        target: names of board and system.
        config: of the device.
        paths: of the bundle, the certificates, the samples and the meters' settings.
        out: where to write it.
        lock: the lock.txt of an earlier release.
        as_json: print for machines.
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
    """Put a release onto a board by ssh. Raises as `deploy` does."""
    archive, console = read_archive(path), Console(highlight=False, markup=False)
    login = Login(address, options, dry_run)
    deploy(archive, login, start=start, show=lambda line: console.print(f"  {line}", soft_wrap=True))
    if dry_run:
        console.print("nothing was changed")


def explain_release(path: Path, as_json: bool) -> None:
    """Check a release and print what to do with it. Raises `UserError`."""
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


def prepare_card(
    path: Path,
    place: tuple[Path | None, Path | None],
    login: tuple[str, str, Path],
    network: tuple[str, Path | None, str, bool],
    *,
    i2c: bool,
    as_json: bool,
) -> None:
    """Write a card's first-boot files. Raises `UserError`, and `CutlayerError` if they do not fit.

    Args:
        path: the release.
        place: a folder where the boot partition is mounted, or an image.
        login: hostname, user, and the file with the public key.
        network: name of the Wi-Fi, a file with its passphrase, the country, and whether it is hidden.
        i2c: whether to switch the I2C bus on.
        as_json: print for machines.
    """
    archive = read_archive(path)
    mounted, image = place
    boot = MountedBoot(mounted) if mounted is not None else ImageBoot(image or Path())
    hostname, user, key = login
    setup = Setup(hostname or archive.release.device.lower(), user, _text(key, "--ssh-key"), _wifi(*network), i2c)
    kind = first_boot_of(boot)
    names = write_first_boot(boot, kind, setup, archive)
    if as_json:
        print(msgspec.json.encode({"first_boot": kind, "files": names, "release": archive.release.release}).decode())
        return
    print(f"{mounted or image}: {kind}; wrote {', '.join(names)}")
    print(
        f"on its first boot the board becomes {setup.hostname!r}, installs release {archive.release.release} and joins the trial;"
    )
    print(f"then: ssh {setup.user}@{setup.hostname}.local, and there: journalctl -fu cutlayer")


def _wifi(name: str, passphrase: Path | None, country: str, hidden: bool) -> Wifi | None:
    if not name:
        if passphrase is not None or country or hidden:
            raise UserError("--wifi: is missing, the network's name")
        return None
    secret = _text(passphrase, "--wifi-passphrase") if passphrase else getpass(f"passphrase of {name}: ")
    return Wifi.of(name, secret, country, hidden=hidden)


def _text(path: Path, option: str) -> str:
    try:
        return path.expanduser().read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: {error}") from error


def send_update(
    device: str, broker: tuple[str, Path | None], key: Path, bundle: Path | None, changes: Changes, wait_s: float
) -> None:
    """Sign an update and send it. Raises as `Sender.send` does, and `UserError`.

    Args:
        device: its name.
        broker: its address, and the folder with our certificates.
        key: to sign with.
        bundle: a new bundle, if any.
        changes: to the configuration.
        wait_s: how long the device may take for each step.
    """
    topics.check_name(device, "the device name")
    if bundle is not None:
        if bundle.suffix != ".zip":
            raise UserError(f"--bundle {bundle}: export it as a .zip")
        read_bundle(bundle).require_certificate()
    manifest = Manifest(device=device, number=int(time.time()), changes=changes)
    content = pack(manifest, bundle.read_bytes() if bundle else None)
    if len(content) > MAX_MESSAGE_BYTES // 2:
        raise UserError(
            f"--bundle {bundle}: has {len(content) / 1e6:.0f} MB, allowed: {MAX_MESSAGE_BYTES // 2 / 1e6:.0f} MB over the air; send it by flash ssh"
        )
    signature = sign(content, key)
    address, tls = broker
    host, port = split_address(address, tls is not None)
    secured = load_tls(tls) if tls else None

    def connect(will: LastWill) -> MqttTransport:
        return MqttTransport(host, port, f"cutlayer-{new_epoch():x}", will, tls=secured)

    with closing(Sender(connect, wait_s, print)) as sender:
        said = sender.send(device, manifest.number, content, signature, comes_back=changes.broker is None)
    if changes.broker is None:
        print(f"update {manifest.number} runs: {said}")
    else:
        print(f"update {manifest.number} works there: {said}")
        print(f"{device} goes to {changes.broker} now; if it does not reach it, it is back here within a few minutes")
