"""Options of the board's program; ``cutlayer device`` is the same."""

import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cutlayer_core.address import split_address
from cutlayer_core.bundles.bundle import Bundle, read_bundle
from cutlayer_core.bundles.release import DeviceConfig
from cutlayer_core.console import exit_status, stop_on_sigterm
from cutlayer_core.samples.inputs import read_inputs
from cutlayer_core.wire import topics
from cutlayer_core.wire.presence import will_of
from cutlayer_core.wire.transports import MqttTransport, load_tls
from cutlayer_device.commands import doctor, profile_calibrate, profile_client, tune
from cutlayer_device.inference.inference import Classifier, LocalClassifier, SplitClassifier, classify
from cutlayer_device.inference.ranking import Ranking
from cutlayer_device.service.ending import end_within
from cutlayer_device.training.agent import birth_of
from cutlayer_device.training.membership import Membership

__all__ = ["app", "check", "forbid_torch", "infer", "main", "run", "service"]

app = typer.Typer(
    help="Runs on the board: trains the client-side model of a bundle, without torch.", no_args_is_help=True
)
app.command()(doctor)
app.command("profile")(profile_client)
app.command("calibrate")(profile_calibrate)
app.command()(tune)

_LONGEST_END_S = 1.5


_Bundle = Annotated[Path, typer.Option(help="What `cutlayer export` wrote: a directory or a .zip.")]
_Tls = Annotated[
    Path | None, typer.Option(help="The folder of this device that `cutlayer certs` made; without it, no encryption.")
]
_Threads = Annotated[int, typer.Option(min=0, help="Threads for the engine; 0: as many as it likes.")]
_Name = Annotated[str, typer.Option(help="Name of this device in the trial file; default: the host name.")]
_TrialName = Annotated[str, typer.Option(help="Name of the trial; default: the one the bundle was exported for.")]


@app.command()
def run(
    bundle: _Bundle,
    broker: Annotated[str, typer.Option(help="The MQTT broker, HOST or HOST:PORT.")],
    samples: Annotated[
        Path, typer.Option("--data", help="Training samples: an .npz, or a folder with a sub-folder a class.")
    ],
    name: _Name = "",
    trial: _TrialName = "",
    state: Annotated[
        Path, typer.Option(help="A folder for what the board needs to go on after a crash, a sub-folder a device.")
    ] = Path("cutlayer-state"),
    tls: _Tls = None,
    threads: _Threads = 0,
    energy: Annotated[
        str,
        typer.Option(help="Report joules: auto (the best there is), none, or require=measured to have that or fail."),
    ] = "auto",
    meters: Annotated[Path | None, typer.Option(help="What you know of the meters, as a TOML file.")] = None,
) -> None:
    """Join a trial and train until its server ends it."""
    config = DeviceConfig(
        name=name or platform.node(),
        broker=broker,
        data=str(samples),
        bundle=str(bundle),
        trial=trial,
        tls=str(tls or ""),
        threads=threads,
        energy=energy,
        meters=str(meters or ""),
    )
    with _board_program():
        Membership(config, Path()).run(state)


@app.command()
def service(
    config: Annotated[Path, typer.Argument(help="config.toml, as `cutlayer flash build` writes it.")],
    state: Annotated[Path, typer.Option(help="A folder for what the board needs to go on after a crash.")] = Path(
        "/var/lib/cutlayer"
    ),
    probation_s: Annotated[
        float, typer.Option(min=1, help="How long an update may take to reach its broker, before it is taken back.")
    ] = 180.0,
) -> None:
    """What systemd runs on a board: take part in trial after trial, until it is stopped."""
    with _board_program():
        from cutlayer_device.service.service import serve  # updates need what a plain run does not

        serve(config, state, probation_s)


@app.command()
def check(
    config: Annotated[Path, typer.Argument(help="config.toml, as `cutlayer flash build` writes it.")],
) -> None:
    """Whether this board can do what it is to do: load everything, and train a few steps on random samples."""
    with _board_program():
        from cutlayer_device.service.service import check_release

        print(check_release(config))


@app.command()
def infer(
    inputs: Annotated[list[Path], typer.Argument(help="Images, folders of images, .npy or .npz files.")],
    bundle: _Bundle,
    top: Annotated[int, typer.Option(min=1, help="How many classes to print for each input.")] = 3,
    broker: Annotated[str, typer.Option(help="Have a server do the part after the cut: HOST or HOST:PORT.")] = "",
    name: _Name = "",
    trial: _TrialName = "",
    tls: _Tls = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples at a time.")] = 32,
    patience_s: Annotated[float, typer.Option(min=0.1, help="How long the server may be silent.")] = 60.0,
    threads: _Threads = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Classify files with a whole model, or with the part before the cut here and the rest on a server."""
    with _board_program():
        loaded = read_bundle(bundle)
        found = read_inputs(inputs, loaded.manifest.client.input)
        with _classifier(loaded, broker, name, trial, tls, patience_s, threads) as classifier:
            report = Ranking(loaded.manifest.client.classes, top, as_json)
            for number, probabilities in enumerate(classify(classifier, loaded, found.x, batch_size)):
                report.show(found.names[number], probabilities, None if found.y is None else int(found.y[number]))
        report.close()


@contextmanager
def _classifier(
    bundle: Bundle, broker: str, name: str, trial: str, tls: Path | None, patience_s: float, threads: int
) -> Iterator[Classifier]:
    if not broker:
        yield LocalClassifier(bundle, threads)
        return
    device_name = topics.check_name(name or platform.node(), "the device name")
    birth = birth_of(bundle, topics.check_name(trial or bundle.manifest.trial, "the trial name"), device_name, 0)
    will = will_of(topics.state(birth.trial, device_name), birth)
    host, port = split_address(broker, tls is not None)
    secured = load_tls(tls) if tls else None
    transport = MqttTransport(host, port, f"cutlayer-{birth.epoch:x}", will, tls=secured)
    with closing(transport), closing(SplitClassifier(bundle, birth, transport, patience_s, threads)) as classifier:
        yield classifier


@contextmanager
def _board_program() -> Iterator[None]:
    """What all programs of a board have in common: no torch, log lines, and an end within 2 s of being asked to."""
    forbid_torch()
    stamped = "%(message)s" if "JOURNAL_STREAM" in os.environ else "%(asctime)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=stamped, datefmt="%H:%M:%S", stream=sys.stderr)
    with exit_status(), stop_on_sigterm(), end_within(_LONGEST_END_S):
        yield


def forbid_torch() -> None:
    """Make any import of torch fail in this process: that a board does not need it is enforced, not hoped for."""
    sys.modules["torch"] = None  # type: ignore[assignment]


def main() -> None:
    """Entry point of ``python -m cutlayer_device``."""
    app(prog_name="python -m cutlayer_device")
