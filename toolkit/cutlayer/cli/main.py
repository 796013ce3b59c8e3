"""``cutlayer``: one command a job. Each imports its package when it is called, so a board needs only its own."""

from pathlib import Path
from typing import Annotated

import typer

from cutlayer import __version__
from cutlayer.cli.flash import flash_app
from cutlayer.cli.profile import profile_app
from cutlayer_core.address import split_address
from cutlayer_core.console import command
from cutlayer_core.engines import ENGINES
from cutlayer_core.errors import UserError
from cutlayer_device.commands import doctor

__all__ = ["main"]

app = typer.Typer(
    help="Split learning across boards and a server: the part before the cut layer trains on the board, without torch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

trial_app = typer.Typer(help="Run a trial in the lab, or watch one.", no_args_is_help=True)
app.add_typer(trial_app, name="trial")
app.add_typer(profile_app, name="profile")
app.add_typer(flash_app, name="flash")

_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
_Engine = Annotated[str, typer.Option(help=f"What runs on the board: {' or '.join(ENGINES)}.")]
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
    all_cuts: Annotated[
        bool,
        typer.Option(
            "--all-cuts",
            help="Export every possible cut, into the folder --out; what was exported before is not done again.",
        ),
    ] = False,
    engine: _Engine = "onnx",
    target: Annotated[
        str, typer.Option(help="Of a TFLite bundle: xnnpack for 64-bit boards, generic for any, 32-bit ones too.")
    ] = "xnnpack",
    precision: Annotated[
        str, typer.Option(help="Of a TFLite bundle that is not trained: float32, float16 or int8.")
    ] = "float32",
    calibration: Annotated[
        Path | None, typer.Option(help="For int8: representative samples, an .npz or a folder as a board has them.")
    ] = None,
    max_error: Annotated[
        float,
        typer.Option(min=0.0, help="Of float16 or int8: greatest change of smashed data, as a share of their size."),
    ] = 0.1,
    arrangements: Annotated[
        bool,
        typer.Option(
            "--arrangements", help="Also export other ways to compute convolutions, for `cutlayer device tune`."
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Export again what the same recipe, code and packages gave before.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Cut a model and export the part before the cut as a bundle that a board can train."""
    needs = ENGINES.get(engine, ENGINES["onnx"])  # an unknown one is refused by the export
    with command(needs.export_extra, "torch", *needs.writes_with):
        from cutlayer_export.options import Options

        if freeze and trainable:
            raise UserError("--freeze: nothing is trained, so leave out --trainable")
        trains = "none" if freeze else trainable
        options = Options(
            model, cut, example, kwargs, weights, optimizer, trains, engine, target, precision, calibration, max_error,
            arrangements,
        )  # fmt: skip
        if list_cuts or all_cuts:  # these need torch in any case
            from cutlayer_export.every_cut import export_all, show_cuts

            if list_cuts:
                show_cuts(trial, options, as_json)
            else:
                export_all(trial, options, out, fresh, as_json)
            return
        from cutlayer_export.cli import export as run

        run(trial, options, out, fresh, as_json)


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
    with command("server", "torch", "matplotlib", "jinja2"):
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
    with command("server", "matplotlib", "jinja2"):
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
    with command("demo", "torch", "onnxscript", "onnxruntime", "sklearn"):
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
    engine: _Engine = "onnx",
    as_json: _Json = False,
) -> None:
    """Run a whole trial on this machine: broker, devices and server as processes, over links like those in the field."""
    with command("demo", "torch", "matplotlib", "jinja2"):
        from cutlayer.lab.lab import lab

        lab(trial, data, run_dir, link or [], seed, as_json, engine)


@trial_app.command()
def status(
    trial: _Trial,
    for_s: Annotated[
        float | None,
        typer.Option(min=0.1, help="Watch for so many seconds, then show it once more and end."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Show who takes part, how far they are, and how good their links are: in a terminal live until Ctrl-C, elsewhere once."""
    with command("server"):
        from cutlayer_server.fleet.status import status as run

        run(trial, for_s, as_json)


@app.command()
def certs(
    folder: Annotated[Path, typer.Argument(help="Where they go; what is there is kept.")],
    broker: Annotated[list[str], typer.Option(help="A name or address under which the broker is reached; repeatable.")],
    device: Annotated[list[str], typer.Option(help="A device of the trial; repeatable.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the broker listens.")] = 8883,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long the certificates are valid.")] = 365,
) -> None:
    """Make certificates for broker, server and devices, and the broker's configuration."""
    with command("server", "cryptography"):
        from cutlayer_server.certs import certs as run

        run(folder, broker, device, port, days)


app.command()(doctor)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def device(context: typer.Context) -> None:
    """On the board: join a trial and train the client-side model (`cutlayer device run --help`)."""
    with command("device"):
        from cutlayer_device.cli import app as device_app

        device_app(args=context.args, prog_name="cutlayer device")


def main() -> None:
    """Entry point of ``cutlayer``."""
    app(prog_name="cutlayer")
