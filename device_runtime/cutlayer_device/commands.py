"""Commands about the board itself, of ``cutlayer`` and of the board's own program: each imports what it needs when it is called."""

from pathlib import Path
from typing import Annotated

import typer

from cutlayer_core.console import command
from cutlayer_core.errors import UserError

__all__ = ["doctor", "profile_calibrate", "profile_client", "tune"]

_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]


def doctor(
    broker: Annotated[
        str, typer.Option(help="Try this MQTT broker: HOST or HOST:PORT; default: the trial's, else this machine's.")
    ] = "",
    trial: Annotated[Path | None, typer.Option(help="Try the broker of this trial file.", metavar="TRIAL.TOML")] = None,
    tls: Annotated[
        Path | None, typer.Option(help="Try it over TLS, with this folder that `cutlayer certs` made.")
    ] = None,
    meters: Annotated[Path | None, typer.Option(help="What you know of the meters, as a TOML file.")] = None,
    capture: Annotated[
        Path | None,
        typer.Option(help="Write what was read to this new folder, without names and numbers of yours, to send."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Check this machine and its meters, and say what to do about what is missing.

    Ends with status 1 only if no trial can run from here: Python is too old, a package that everything needs is missing, or
    the broker that --broker or --trial names does not answer.
    """
    with command("device", "numpy", "paho"):
        from cutlayer_profiles.checks import broker_to_try
        from cutlayer_profiles.doctor import doctor as run

        run(meters, capture, as_json, broker_to_try(broker, trial, tls))


def profile_client(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="What `cutlayer export` wrote; several, such as one a cut.")
    ] = None,
    all_cuts: Annotated[
        Path | None, typer.Option(help="Every bundle in this folder, which `cutlayer export --all-cuts` wrote.")
    ] = None,
    batch_size: Annotated[list[int], typer.Option(min=1, help="Samples a step; repeatable.")] = [32],  # noqa: B006
    threads: Annotated[list[int], typer.Option(min=0, help="Threads of the engine, 0 for all; repeatable.")] = [1],  # noqa: B006
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to train for each.")] = 5.0,
    idle_s: Annotated[float, typer.Option(min=0, help="How long to rest before and after each, for the meter.")] = 0.0,
    energy: Annotated[str, typer.Option(help="auto, none, or require=measured.")] = "auto",
    meters: Annotated[Path | None, typer.Option(help="What you know of the meters, as a TOML file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the board profile here, as JSON.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Measure only what the file of --out does not have yet.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """On the board: what a training step costs, by phase, over batch sizes and threads."""
    with command("device"):
        from cutlayer_device.profiling.board_profile import Sweep, bundles_in
        from cutlayer_device.profiling.board_profile import profile_clients as run

        if bool(bundles) is (all_cuts is not None):
            raise UserError("profile client: give bundles, or --all-cuts FOLDER")
        if resume and out is None:
            raise UserError("--resume: goes on with the file of --out, so give one")
        chosen = bundles_in(all_cuts) if all_cuts is not None else bundles or []
        sweep = Sweep(chosen, batch_size, threads, seconds, idle_s)
        run(sweep, energy, meters, out, resume, as_json)


def profile_calibrate(
    out: Annotated[Path, typer.Argument(help="Where to write the board's coefficients, a TOML file.")],
    seconds: Annotated[float, typer.Option(min=2, help="How long each load lasts.")] = 60.0,
    broker: Annotated[
        str, typer.Option(help="Also measure what sending costs, to this broker: HOST or HOST:PORT.")
    ] = "",
    meters: Annotated[Path | None, typer.Option(help="What you know of the meters, as a TOML file.")] = None,
) -> None:
    """On a board with a meter: find its own coefficients, for estimates without the meter."""
    with command("device", "numpy"):
        from cutlayer_profiles.own_board import calibrate_board as run

        run(out, seconds, broker, meters)


def tune(
    bundle: Annotated[Path, typer.Option(help="What `cutlayer export --arrangements` wrote: a directory or a .zip.")],
    state: Annotated[
        Path, typer.Option(help="Where to keep what was found: the --state of `cutlayer device run`.")
    ] = Path("cutlayer-state"),
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a step.")] = 32,
    threads: Annotated[int, typer.Option(min=0, help="Threads of the engine, 0 for all, as in `device run`.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to train by each arrangement.")] = 10.0,
    as_json: _Json = False,
) -> None:
    """On the board: find the fastest of a bundle's arrangements, and train by it from then on."""
    with command("device"):
        from cutlayer_device.tuning.command import tune as run

        run(bundle, state, batch_size, threads, seconds, as_json)
