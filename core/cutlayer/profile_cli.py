"""``cutlayer profile``: like `cutlayer.cli`, each command imports its package when it is called."""

from pathlib import Path
from typing import Annotated

import typer

from cutlayer.console import command
from cutlayer.errors import UserError

__all__ = ["profile_app"]

profile_app = typer.Typer(help="What training cost the devices, and what a setting saves.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]
_Board = Annotated[
    str,
    typer.Option(help="Estimate joules for this board: pi4, pi5, ... or a TOML file. Default: what devices reported."),
]
_Slower = Annotated[
    float, typer.Option(min=0.01, help="Core seconds of that board for one of the machine that was measured.")
]


@profile_app.command("client")
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
        from cutlayer_device.board_profile import Sweep, bundles_in
        from cutlayer_device.board_profile import profile_clients as run

        if bool(bundles) is (all_cuts is not None):
            raise UserError("profile client: give bundles, or --all-cuts FOLDER")
        if resume and out is None:
            raise UserError("--resume: goes on with the file of --out, so give one")
        chosen = bundles_in(all_cuts) if all_cuts is not None else bundles or []
        sweep = Sweep(chosen, batch_size, threads, seconds, idle_s)
        run(sweep, energy, meters, out, resume, as_json)


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
    with command("device", "numpy"):
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
    with command("device", "numpy"):
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
    with command("server", "matplotlib", "jinja2"):
        from cutlayer_profiles.comparison.cli import compare_runs as run

        run(folders, board, slower, accuracy, page, as_json)
