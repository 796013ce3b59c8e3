"""``cutlayer``: one command a job. Each imports its package when it is called, so a board needs only its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from cutlayer import __version__
from cutlayer.broker import split_address
from cutlayer.console import exit_status, stop_on_sigterm
from cutlayer.errors import UserError

__all__ = ["main"]

app = typer.Typer(
    help="Split learning across boards and a server: the part before the cut layer trains on the board, without torch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

trial_app = typer.Typer(help="Run a trial in the lab, or watch one.", no_args_is_help=True)
app.add_typer(trial_app, name="trial")
profile_app = typer.Typer(help="What training cost the devices, and what a setting saves.", no_args_is_help=True)
app.add_typer(profile_app, name="profile")

_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
_Trial = Annotated[Path, typer.Argument(help="The trial file.", metavar="TRIAL.TOML")]


@app.callback(invoke_without_command=True)
def cutlayer(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Answer ``--version``."""
    if version:
        print(f"cutlayer {__version__}")


@app.command()
def export(
    trial: Annotated[
        Path | None, typer.Argument(help="The trial file; or describe the model with options.", metavar="[TRIAL.TOML]")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write it: a directory, or a .zip.")] = Path("client.bundle"),
    model: Annotated[str, typer.Option(help="The whole model: package.module:factory.")] = "",
    cut: Annotated[
        str,
        typer.Option(help="The module whose output becomes the smashed data; none: the whole model, for inference."),
    ] = "",
    example: Annotated[str, typer.Option(help="One input: 3x32x32, or for tokens 64:int64:0..9999.")] = "",
    kwargs: Annotated[str, typer.Option(help="Arguments of the factory, as JSON.")] = "{}",
    weights: Annotated[str, typer.Option(help="Weights to start from: a .safetensors or .pth state dict.")] = "",
    optimizer: Annotated[
        str, typer.Option(help="The board's: sgd, adam or adamw, as in sgd:learning_rate=0.01,momentum=0.9.")
    ] = "",
    freeze: Annotated[bool, typer.Option("--freeze", help="Train nothing on the board: inference only.")] = False,
    trainable: Annotated[str, typer.Option(help="all, or last:N for the last N modules with parameters.")] = "",
    list_cuts: Annotated[bool, typer.Option("--list", help="Only list every possible cut and what it costs.")] = False,
    as_json: _Json = False,
) -> None:
    """Cut a model and export the part before the cut as a bundle that a board can train."""
    with _command("export", "torch", "onnx", "onnxscript", "onnxruntime"):
        from cutlayer_export.cli import Options
        from cutlayer_export.cli import export as run

        if freeze and trainable:
            raise UserError("--freeze: nothing is trained, so leave out --trainable")
        options = Options(model, cut, example, kwargs, weights, optimizer, "none" if freeze else trainable)
        run(trial, options, None if list_cuts else out, as_json)


@app.command()
def serve(
    trial: _Trial,
    run_dir: Annotated[Path | None, typer.Option(help="Where to write the run record; default: runs/<name>.")] = None,
    infer: Annotated[
        Path | None,
        typer.Option(help="Train nothing: answer boards with this run's trained model (or a .safetensors)."),
    ] = None,
    broker: Annotated[
        str, typer.Option(help="Another MQTT broker than the trial file's, without encryption: HOST or HOST:PORT.")
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the run directory, or begin it if there is none.")
    ] = False,
    torch_device: Annotated[str, typer.Option(help="Where the server-side half runs, such as cuda or cuda:1.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="Threads for torch; 0: as many as it likes.")] = 0,
    as_json: _Json = False,
) -> None:
    """Lead a trial: wait for its devices, train the part after the cut, write the run record and a report."""
    with _command("server", "torch", "matplotlib", "jinja2"):
        if infer is not None:
            from cutlayer_server.cli import infer as answer

            if resume:
                raise UserError("--resume: goes on with a training; leave it out with --infer")
            answer(trial, infer, torch_device, threads)
            return
        from cutlayer_server.cli import serve as run

        address = split_address(broker) if broker else None
        run(trial, run_dir, address, resume, torch_device, threads, as_json)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="A run record, as `serve` writes it.")], as_json: _Json = False
) -> None:
    """Write a run's report.html anew from its record."""
    with _command("server", "matplotlib", "jinja2"):
        from cutlayer_profiles.report.cli import report as run

        run(run_dir, as_json)


@app.command()
def demo(
    run_dir: Annotated[Path, typer.Option(help="Where to write the run; an earlier demo there is replaced.")] = Path(
        "runs/demo"
    ),
    prepare: Annotated[
        Path | None,
        typer.Option(help="Only write trial file, broker configuration and data to this folder, to run it by hand."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """See split learning happen: a broker, a server and two devices train on handwritten digits."""
    with _command("demo", "torch", "onnxscript", "onnxruntime", "sklearn"):
        from cutlayer import demo as package

        if prepare is None:
            package.run_demo(run_dir, as_json)
        else:
            package.prepare(prepare)
            print(f"{prepare}: trial.toml, mosquitto.conf, test.npz, board-1.npz, board-2.npz")


@trial_app.command()
def run(
    trial: _Trial,
    data: Annotated[
        Path | None,
        typer.Option(help="Where each device's samples are, DEVICE.npz or DEVICE/; default: beside the trial file."),
    ] = None,
    link: Annotated[
        list[str] | None,
        typer.Option(
            help="How devices reach the broker: wifi-good, wifi-bad, wifi-power-save, lte, a TOML file, or DEVICE=one of "
            "these (also server=); repeatable. Without it, directly."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give links that stall at equal times.")] = 1,
    run_dir: Annotated[Path | None, typer.Option(help="Where to write the run record; default: runs/<name>.")] = None,
    as_json: _Json = False,
) -> None:
    """Run a whole trial on this machine: broker, devices and server as processes, over links like those in the field."""
    with _command("demo", "torch", "onnxscript", "onnxruntime", "matplotlib", "jinja2"):
        from cutlayer.lab import lab

        lab(trial, data, run_dir, link or [], seed, as_json)


@trial_app.command()
def status(
    trial: _Trial,
    watch_s: Annotated[float, typer.Option(min=0, help="Watch for so long; 0: until Ctrl-C, in a terminal.")] = 0.0,
    as_json: _Json = False,
) -> None:
    """Show who takes part, how far they are, and how good their links are."""
    with _command("server"):
        from cutlayer_server.status import status as run

        run(trial, watch_s, as_json)


@app.command()
def certs(
    folder: Annotated[Path, typer.Argument(help="Where they go; what is there is kept.")],
    broker: Annotated[list[str], typer.Option(help="A name or address under which the broker is reached; repeatable.")],
    device: Annotated[list[str], typer.Option(help="A device of the trial; repeatable.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the broker listens.")] = 8883,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long the certificates are valid.")] = 365,
) -> None:
    """Make certificates for broker, server and devices, and the broker's configuration."""
    with _command("server", "cryptography"):
        from cutlayer_server.certs import certs as run

        run(folder, broker, device, port, days)


_Board = Annotated[
    str,
    typer.Option(help="Estimate joules for this board: pi4, pi5, ... or a TOML file. Default: what devices reported."),
]
_Slower = Annotated[
    float, typer.Option(min=0.01, help="Core seconds of that board for one of the machine that was measured.")
]


@profile_app.command("client")
def profile_client(
    bundles: Annotated[list[Path], typer.Argument(help="What `cutlayer export` wrote; several, such as one a cut.")],
    batch_size: Annotated[list[int], typer.Option(min=1, help="Samples a step; repeatable.")] = [32],  # noqa: B006
    threads: Annotated[list[int], typer.Option(min=0, help="Threads of the engine, 0 for all; repeatable.")] = [1],  # noqa: B006
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to train for each.")] = 5.0,
    idle_s: Annotated[float, typer.Option(min=0, help="How long to rest before and after each, for the meter.")] = 0.0,
    energy: Annotated[str, typer.Option(help="auto, none, or require=measured.")] = "auto",
    meters: Annotated[Path | None, typer.Option(help="What you know of the meters, as a TOML file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the board profile here, as JSON.")] = None,
    as_json: _Json = False,
) -> None:
    """On the board: what a training step costs, by phase, over batch sizes and threads."""
    with _command("device", "onnxruntime"):
        from cutlayer_device.board_profile import profile_clients as run

        run(bundles, batch_size, threads, seconds, idle_s, energy, meters, out, as_json)


@profile_app.command("calibrate")
def profile_calibrate(
    out: Annotated[Path, typer.Argument(help="Where to write the board's coefficients, a TOML file.")],
    seconds: Annotated[float, typer.Option(min=2, help="How long each load lasts.")] = 60.0,
    broker: Annotated[
        str, typer.Option(help="Also measure what sending costs, to this broker: HOST or HOST:PORT.")
    ] = "",
    meters: Annotated[Path | None, typer.Option(help="What you know of the meters, as a TOML file.")] = None,
) -> None:
    """On a board with a meter: find its own coefficients, for estimates without the meter."""
    with _command("device", "numpy"):
        from cutlayer_profiles.own_board import calibrate_board as run

        run(out, seconds, broker, meters)


@profile_app.command("trial")
def profile_trial(
    run_dir: Annotated[Path, typer.Argument(help="A run record.")],
    board: _Board = "",
    slower: _Slower = 1.0,
    power: Annotated[
        Path | None, typer.Option(help="Joules of a recording: a lab instrument's CSV, or a log of tegrastats.")
    ] = None,
    offset_s: Annotated[
        float, typer.Option(help="Added to its times, to make them seconds since the run began.")
    ] = 0.0,
    interval_s: Annotated[float | None, typer.Option(help="Between the lines of a log without times.")] = None,
    as_json: _Json = False,
) -> None:
    """What each round of a run cost its devices: time, core seconds, bytes, joules."""
    with _command("device", "numpy"):
        from cutlayer_profiles.comparison.cli import profile_trial as run
        from cutlayer_profiles.recordings import read_recording

        if board and power:
            raise UserError("--power: leave out --board, whose joules would be an estimate of the same")
        run(run_dir, board, slower, read_recording(power, offset_s, interval_s) if power else None, as_json)


@profile_app.command("compare")
def profile_compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Run records, or folders with repeats; the first is compared with the others.")
    ],
    board: _Board = "",
    slower: _Slower = 1.0,
    accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="Compare also what it cost to be so accurate, a share of 1.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write a page with charts here.")] = None,
    as_json: _Json = False,
) -> None:
    """How much less one setting costs than another, with confidence intervals over repeats."""
    with _command("server", "matplotlib", "jinja2"):
        from cutlayer_profiles.comparison.cli import compare_runs as run

        run(folders, board, slower, accuracy, page, as_json)


@app.command()
def doctor(
    meters: Annotated[Path | None, typer.Option(help="What you know of the meters, as a TOML file.")] = None,
    capture: Annotated[
        Path | None,
        typer.Option(help="Write what was read to this new folder, without names and numbers of yours, to send."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """On the board: look for every meter that cutlayer knows, and say what to do where one cannot be read."""
    with _command("device", "numpy"):
        from cutlayer_profiles.doctor import doctor as run

        run(meters, capture, as_json)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def device(context: typer.Context) -> None:
    """On the board: join a trial and train the client-side model (`cutlayer device run --help`)."""
    with _command("device", "onnxruntime"):
        from cutlayer_device.cli import app as device_app

        device_app(args=context.args, prog_name="cutlayer device")


@contextmanager
def _command(extra: str, *modules: str) -> Iterator[None]:
    """Check that what a command needs is installed, then run it with our exit statuses.

    torch is in no extra on purpose: which build (CPU, CUDA) is the user's choice, and the wrong one is gigabytes.
    """
    with exit_status(), stop_on_sigterm():
        missing = [name for name in modules if find_spec(name) is None]
        if "torch" in missing:
            raise UserError("this command needs PyTorch: install the build for your machine first (docs/install.md)")
        if missing:
            raise UserError(f"this command needs {', '.join(missing)}: pip install 'cutlayer[{extra}]'")
        yield


def main() -> None:
    """Entry point of ``cutlayer``."""
    app(prog_name="cutlayer")
