"""``cutlayer flash``: like `cutlayer.cli.main`, each command imports its package when it is called."""

from pathlib import Path
from typing import Annotated

import typer

from cutlayer_core.bundles.release import DeviceConfig
from cutlayer_core.console import command
from cutlayer_core.errors import UserError

__all__ = ["flash_app"]

flash_app = typer.Typer(help="Put the runtime onto a board, with nothing to be fetched there.", no_args_is_help=True)

_NEEDED = ("cryptography", "packaging", "tomli_w", "uv", "yaml")
_UNSEEN = ("/home/", "/root/", "/tmp/", "/var/tmp/", "/run/")  # noqa: S108 - of a board, where the unit hides them
_Release = Annotated[Path, typer.Argument(help="What `cutlayer flash build` wrote.", metavar="RELEASE.TAR.GZ")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]


@flash_app.command("build")
def flash_build(
    board: Annotated[str, typer.Option(help="pi3, pi4, pi5, pi-zero2w, jetson-orin, ...")],
    os: Annotated[str, typer.Option("--os", help="bookworm, trixie, noble, jp6, ...")],
    bundle: Annotated[Path, typer.Option(help="What `cutlayer export` wrote.")],
    broker: Annotated[str, typer.Option(help="The MQTT broker as the board reaches it, HOST or HOST:PORT.")],
    device_id: Annotated[str, typer.Option(help="Name of the device in the trial file.")],
    out: Annotated[Path | None, typer.Option(help="Where to write it; default: DEVICE_ID.tar.gz.")] = None,
    data: Annotated[Path | None, typer.Option(help="Training samples that come along: an .npz, or a folder.")] = None,
    data_on_board: Annotated[str, typer.Option(help="Or where on the board they are: an absolute path.")] = "",
    trial: Annotated[str, typer.Option(help="Name of the trial; default: the one the bundle was exported for.")] = "",
    tls: Annotated[Path | None, typer.Option(help="The device's folder that `cutlayer certs` made.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Of the engine; 0: as many as it likes.")] = 0,
    energy: Annotated[str, typer.Option(help="auto, none, or require=measured.")] = "auto",
    meters: Annotated[Path | None, typer.Option(help="What you know of the board's meters, as a TOML file.")] = None,
    update_key: Annotated[
        Path | None, typer.Option(help="The .pub of `flash key`: its owner may send new bundles and configurations.")
    ] = None,
    lock: Annotated[
        Path | None, typer.Option(help="An earlier lock.txt: the very same packages instead of the newest.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Build a release for a board: runtime, packages, bundle, certificates, configuration and service, in one file."""
    with command("flash", *_NEEDED):
        from cutlayer_flash.cli import build_release as run
        from cutlayer_flash.sending import public_key_of

        if (data is None) is (not data_on_board):
            raise UserError("flash build: give --data, or --data-on-board with where the samples are there")
        if data_on_board and not data_on_board.startswith("/"):
            raise UserError(f"--data-on-board: found {data_on_board!r}, allowed: an absolute path")
        if data_on_board.startswith(_UNSEEN):
            raise UserError(
                f"--data-on-board: {data_on_board} is a place that a service cannot see: use one such as /srv/data, which all can read"
            )
        config = DeviceConfig(
            name=device_id,
            broker=broker,
            data=data_on_board,
            trial=trial,
            threads=threads,
            energy=energy,
            update_key=public_key_of(update_key) if update_key else "",
        )
        run((board, os), config, (bundle, tls, data, meters), out or Path(f"{device_id}.tar.gz"), lock, as_json)


@flash_app.command("ssh")
def flash_ssh(
    release: _Release,
    address: Annotated[str, typer.Argument(help="The board, as ssh takes it: user@host.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where its sshd listens.")] = 22,
    identity: Annotated[Path | None, typer.Option(help="The private key to log in with.")] = None,
    ssh_option: Annotated[list[str] | None, typer.Option(help="Another -o option of ssh; repeatable.")] = None,
    no_start: Annotated[bool, typer.Option("--no-start", help="Install it, and start it with the board only.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look the board over, and only print each command that would change it.")
    ] = False,
) -> None:
    """Put a release onto a board that runs: looked at first, taken back if the device does not come up with it."""
    with command("flash", *_NEEDED):
        from cutlayer_flash.cli import deploy_release as run

        options = ["-p", str(port), *(["-i", str(identity)] if identity else [])]
        for each in ssh_option or []:
            options += ["-o", each]
        run(release, address, tuple(options), start=not no_start, dry_run=dry_run)


@flash_app.command("tar")
def flash_tar(release: _Release, as_json: _Json = False) -> None:
    """Check a release, and say how to install it by hand, on whatever way it gets to the board."""
    with command("flash", *_NEEDED):
        from cutlayer_flash.cli import explain_release as run

        run(release, as_json)


@flash_app.command("sd")
def flash_sd(
    release: _Release,
    ssh_key: Annotated[Path, typer.Option(help="The public key that may log in, such as ~/.ssh/id_ed25519.pub.")],
    boot: Annotated[
        Path | None, typer.Option(help="Where the card's boot partition is mounted, as /media/you/bootfs.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Or an image file, to be written to a card afterwards.")] = None,
    hostname: Annotated[str, typer.Option(help="Of the board; default: the device's name in the trial.")] = "",
    user: Annotated[str, typer.Option(help="Who may log in, by that key alone, and become root.")] = "cutlayer",
    wifi: Annotated[str, typer.Option(help="Name of the Wi-Fi; its passphrase is asked for, or read.")] = "",
    wifi_passphrase: Annotated[
        Path | None,
        typer.Option(help="A file with the passphrase; never the passphrase itself, which others would see."),
    ] = None,
    country: Annotated[
        str, typer.Option(help="Where the board is, two capitals such as DE: Wi-Fi stays off without.")
    ] = "",
    hidden: Annotated[bool, typer.Option("--hidden", help="The Wi-Fi does not say its name.")] = False,
    no_i2c: Annotated[bool, typer.Option("--no-i2c", help="There is no meter on the I2C bus.")] = False,
    as_json: _Json = False,
) -> None:
    """Have an SD card's system set itself up on its first boot, install the release and join the trial."""
    with command("flash", *_NEEDED):
        from cutlayer_flash.cli import prepare_card as run

        if (boot is None) is (image is None):
            raise UserError("flash sd: give --boot, or --image")
        network = (wifi, wifi_passphrase, country, hidden)
        run(release, (boot, image), (hostname, user, ssh_key), network, i2c=not no_i2c, as_json=as_json)


@flash_app.command("key")
def flash_key(
    path: Annotated[Path, typer.Argument(help="Where to write the private key; its .pub stands beside it.")],
) -> None:
    """Make a key to sign updates with: `flash build --update-key` gives devices its public part."""
    with command("flash", *_NEEDED):
        from cutlayer_flash.sending import make_key as run

        print(f"{path}: keep it to yourself; {run(path)}: for `flash build --update-key`")


@flash_app.command("update")
def flash_update(
    device: Annotated[str, typer.Argument(help="Name of the device.")],
    broker: Annotated[str, typer.Option(help="The broker that it is connected to now, HOST or HOST:PORT.")],
    key: Annotated[Path, typer.Option(help="The private key that `flash key` made.")],
    tls: Annotated[Path | None, typer.Option(help="The server's folder that `cutlayer certs` made.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="A new bundle, a .zip.")] = None,
    new_broker: Annotated[str | None, typer.Option(help="Another broker for the device.")] = None,
    trial: Annotated[str | None, typer.Option(help="Another trial.")] = None,
    threads: Annotated[int | None, typer.Option(min=0, help="Another number of threads.")] = None,
    energy: Annotated[str | None, typer.Option(help="auto, none, or require=measured.")] = None,
    wait_s: Annotated[float, typer.Option(min=1, help="How long the device may take for each step.")] = 300.0,
) -> None:
    """Send a device a new bundle or configuration over MQTT: signed, tried there, taken back if it does not work."""
    with command("flash", *_NEEDED):
        from cutlayer_core.bundles.update import Changes
        from cutlayer_flash.cli import send_update as run

        changes = Changes(broker=new_broker, trial=trial, threads=threads, energy=energy)
        if bundle is None and changes == Changes():
            raise UserError("flash update: give --bundle, or what of the configuration is to change")
        run(device, (broker, tls), key, bundle, changes, wait_s)
