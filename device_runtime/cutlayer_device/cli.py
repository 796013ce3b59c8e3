"""Options of the board's program; ``cutlayer device`` is the same."""

import logging
import platform
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from cutlayer import data, topics
from cutlayer.bundle import read_bundle
from cutlayer.console import exit_status, stop_on_sigterm
from cutlayer.endpoint import will_of
from cutlayer.errors import UserError
from cutlayer.transports import MqttTransport
from cutlayer_device.agent import Agent, birth_of

__all__ = ["app", "forbid_torch", "main", "split_address"]

app = typer.Typer(
    help="Runs on the board: trains the client-side model of a bundle, without torch.", no_args_is_help=True
)
_log = logging.getLogger(__name__)


@app.callback()
def device() -> None:
    """Keep `run` a command of its own; `infer` and others will stand beside it."""


@app.command()
def run(
    bundle: Annotated[Path, typer.Option(help="What `cutlayer export` wrote: a directory or a .zip.")],
    broker: Annotated[str, typer.Option(help="The MQTT broker, HOST or HOST:PORT.")],
    samples: Annotated[
        Path, typer.Option("--data", help="Training samples: an .npz, or a folder with a sub-folder a class.")
    ],
    name: Annotated[str, typer.Option(help="Name of this device in the trial file; default: the host name.")] = "",
    trial: Annotated[str, typer.Option(help="Name of the trial; default: the one the bundle was exported for.")] = "",
    threads: Annotated[int, typer.Option(min=0, help="Threads for the engine; 0: as many as it likes.")] = 0,
) -> None:
    """Join a trial and train until its server ends it."""
    forbid_torch()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    with exit_status(), stop_on_sigterm():
        loaded = read_bundle(bundle)
        loaded.require_certificate()
        manifest = loaded.manifest
        device_name = topics.check_name(name or platform.node(), "the device name")
        trial_name = topics.check_name(trial or manifest.trial, "the trial name")
        training = data.load(samples, manifest.client.input.shape, manifest.client.classes)
        host, port = split_address(broker)
        birth = birth_of(loaded, trial_name, device_name, len(training.y))
        will = will_of(topics.state(trial_name, device_name), birth)
        transport = MqttTransport(host, port, f"cutlayer-{birth.epoch:x}", will)
        _log.info(
            "%s: %d samples, engine %s, no torch, broker %s:%d",
            device_name,
            len(training.y),
            manifest.engine,
            host,
            port,
        )
        try:
            reason = Agent(loaded, training, birth, transport, threads).run()
        finally:
            transport.close()
        _log.info("the trial is over: %s", reason)


def forbid_torch() -> None:
    """Make any import of torch fail in this process: that a board needs none is enforced, not hoped."""
    sys.modules["torch"] = None  # type: ignore[assignment]


def split_address(address: str) -> tuple[str, int]:
    """``host`` or ``host:port``, port 1883 by default. Raises `UserError` for anything else."""
    match = re.fullmatch(r"(?P<host>[^:\s]+|\[[0-9a-fA-F:]+\])(?::(?P<port>\d{1,5}))?", address)
    port = int(match["port"] or 1883) if match else 0
    if match is None or not 0 < port < 65536:
        raise UserError(f"--broker: found {address!r}, allowed: HOST or HOST:PORT")
    return match["host"].strip("[]"), port


def main() -> None:
    """Entry point of ``python -m cutlayer_device``."""
    app(prog_name="python -m cutlayer_device")
