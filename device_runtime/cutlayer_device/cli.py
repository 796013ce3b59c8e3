"""Options of the board's program; ``cutlayer device`` is the same."""

import logging
import platform
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cutlayer import data, topics
from cutlayer.broker import split_address
from cutlayer.bundle import Bundle, read_bundle
from cutlayer.console import exit_status, stop_on_sigterm
from cutlayer.endpoint import new_epoch, will_of
from cutlayer.inputs import read_inputs
from cutlayer.transports import LastWill, MqttTransport, load_tls
from cutlayer_device.agent import Agent, birth_of
from cutlayer_device.inference import Classifier, LocalClassifier, SplitClassifier, classify
from cutlayer_device.ranking import Ranking
from cutlayer_device.states import States
from cutlayer_profiles.choice import choose_profiler
from cutlayer_profiles.meters import Root, read_settings

__all__ = ["app", "forbid_torch", "infer", "main", "run"]

app = typer.Typer(
    help="Runs on the board: trains the client-side model of a bundle, without torch.", no_args_is_help=True
)
_log = logging.getLogger(__name__)


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
    forbid_torch()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    with exit_status(), stop_on_sigterm():
        loaded = read_bundle(bundle)
        loaded.require_certificate()
        manifest = loaded.manifest
        device_name = topics.check_name(name or platform.node(), "the device name")
        trial_name = topics.check_name(trial or manifest.trial, "the trial name")
        training = data.load(samples, manifest.client.input, manifest.client.classes)
        host, port = split_address(broker, tls is not None)
        secured = load_tls(tls) if tls else None
        birth = birth_of(loaded, trial_name, device_name, len(training.y))
        states = States(state / trial_name / device_name, manifest.client.fingerprint)

        profiler, source = choose_profiler(Root(), read_settings(meters), energy)

        def connect(will: LastWill, wait_s: float) -> MqttTransport:
            transport = MqttTransport(host, port, f"cutlayer-{new_epoch():x}", will, wait_s, secured)
            about = (device_name, len(training.y), manifest.engine, host, port)
            _log.info("%s: %d samples, engine %s, no torch, broker %s:%d", *about)
            _log.info("energy: %s", source)
            return transport

        with closing(states), closing(profiler):
            reason = Agent(loaded, training, birth, connect, states, threads, profiler).run()
        _log.info("the trial is over: %s", reason)


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
    forbid_torch()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    with exit_status(), stop_on_sigterm():
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


def forbid_torch() -> None:
    """Make any import of torch fail in this process: that a board needs none is enforced, not hoped."""
    sys.modules["torch"] = None  # type: ignore[assignment]


def main() -> None:
    """Entry point of ``python -m cutlayer_device``."""
    app(prog_name="python -m cutlayer_device")
