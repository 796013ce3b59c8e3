"""The command ``cutlayer profile calibrate``."""

import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
from rich.console import Console

from cutlayer_core.address import split_address
from cutlayer_core.errors import UserError
from cutlayer_core.files import replace_file
from cutlayer_core.wire.transports import MqttTransport
from cutlayer_profiles.calibration import calibrate, fit, plan_of
from cutlayer_profiles.coefficients import Board, board_of, boards
from cutlayer_profiles.meters import Root, find_meters, read_settings
from cutlayer_profiles.profiler import Profiler

__all__ = ["calibrate_board", "toml_of"]

_PACKET = bytes(100_000)
_PACKETS = 10
_ECHO_S = 30.0


def calibrate_board(out: Path, seconds: float, broker: str, meters: Path | None, root: Root | None = None) -> None:
    """Measure this board and write its coefficients.

    Raises:
        UserError: there is no meter, or the measurements do not determine the coefficients.
        TransportError: there is no broker.
        OSError: the file cannot be written.
    """
    root = root or Root()
    console = Console(stderr=True, highlight=False)
    meter = next((found.meter for found in find_meters(root, read_settings(meters)) if found.meter), None)
    if meter is None:
        raise UserError(
            "profile calibrate: needs a meter, and there is none: `cutlayer doctor` says what was looked for"
        )
    prior = board_of(root) or boards()["pi4"]
    loads = plan_of(os.cpu_count() or prior.cores, sends=bool(broker))
    console.print(f"{meter.name}: {len(loads)} loads of {seconds:g} s each; leave the board alone", soft_wrap=True)
    with ExitStack() as stack:
        send = _sender(stack, broker) if broker else None
        profiler = stack.enter_context(closing(Profiler(root, meter)))
        stretches = calibrate(loads, seconds, profiler.report, send, console.print)
    source = f"cutlayer profile calibrate, {time.strftime('%Y-%m-%d')}, {meter.name} ({meter.kind}, {meter.scope})"
    if meter.scope != "dc_input":
        source += "; not of the 5 V input"
    board = fit(stretches, prior, _name(root, prior), source)
    replace_file(out, toml_of(board).encode())
    for what in ("idle_w", "core_w", "sent_j_mb"):
        found = getattr(board, what)
        console.print(f"{what:<10} {found.value:.3f} ({found.low:.3f} to {found.high:.3f})")
    console.print(
        f'written: {out}; use it as board = "{out}" in the file of --meters, or with --board {out}', soft_wrap=True
    )


def _name(root: Root, prior: Board) -> str:
    try:
        return root.read("proc/device-tree/model")
    except OSError:
        return prior.name


def toml_of(board: Board) -> str:
    """A board as a TOML file like the others; texts, numbers and lists as JSON writes them are valid TOML, too."""
    plain = msgspec.to_builtins(board)
    tables = {key: value for key, value in plain.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items() if key not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _sender(stack: ExitStack, broker: str) -> Callable[[], None]:
    """Sends packets to a topic that nobody listens to, no faster than the network takes them."""
    host, port = split_address(broker)
    transport = stack.enter_context(closing(MqttTransport(host, port, f"cutlayer-calibrate-{os.getpid()}")))
    echo = f"cutlayer/1/calibrate/{os.getpid()}"
    transport.subscribe(echo)

    def send() -> None:
        for _ in range(_PACKETS):
            transport.publish("cutlayer/1/calibrate/sink", _PACKET)
        transport.publish(echo, b"")  # it comes back after all packets have left
        if transport.receive(_ECHO_S) is None:
            raise UserError(f"--broker {broker}: a megabyte did not get through in {_ECHO_S:g} s")

    return send
