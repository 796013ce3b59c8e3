"""``cutlayer profile``: like `cutlayer.cli.main`, each command imports its package when it is called."""

from pathlib import Path
from typing import Annotated

import typer

from cutlayer_core.console import command
from cutlayer_core.errors import UserError
from cutlayer_device.commands import profile_calibrate, profile_client

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


profile_app.command("client")(profile_client)
profile_app.command("calibrate")(profile_calibrate)


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
