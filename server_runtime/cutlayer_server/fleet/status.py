"""``cutlayer trial status``: who is there, how far they are, and how good their links are."""

import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from cutlayer_core.trial.trial import Trial, read_trial
from cutlayer_core.wire import topics
from cutlayer_core.wire.observer import DeviceStatus, Observer
from cutlayer_core.wire.transports import Transport
from cutlayer_server.fleet.connection import connect

__all__ = ["status"]

_REFRESH_S = 0.5
_LISTEN_S = 2.0
"""How long to listen where nobody watches: what is retained comes at once, rates need packets."""
_COLUMNS = ("device", "state", "epoch", "step", "seen s", "kB/s up", "down", "rtt ms", "again", "queue")


def status(trial_file: Path, for_s: float | None, as_json: bool) -> None:
    """Show a trial: in a terminal live, until Ctrl-C; elsewhere once, after 2 s.

    Args:
        trial_file: names the trial and its broker.
        for_s: watch for so long, in a terminal live, then show it once more.
        as_json: once, as one line of JSON.

    Raises:
        UserError: the trial file cannot be used.
        TransportError: its broker does not answer, or refuses.
    """
    trial, console = read_trial(trial_file), Console()
    observer = Observer(trial.name, trial.devices)
    with closing(connect(trial)) as transport:
        for topic in (topics.control, topics.every_state, topics.every_up, topics.every_down):
            transport.subscribe(topic(trial.name))
        if sys.stdout.isatty() and console.is_interactive and not as_json:  # is_interactive alone believes FORCE_COLOR
            _watch(transport, trial, observer, console, for_s)
            return
        _follow(transport, observer, _LISTEN_S if for_s is None else for_s)
    if as_json:
        found = {"trial": trial.name, "server": observer.server_online, "devices": observer.statuses(time.monotonic())}
        print(msgspec.json.encode(found).decode())
    else:
        console.print(_table(trial, observer))


def _watch(transport: Transport, trial: Trial, observer: Observer, console: Console, for_s: float | None) -> None:
    """The table, drawn anew as it changes; the last one stays. Ctrl-C is how a live view ends, so it is no error."""
    end = float("inf") if for_s is None else time.monotonic() + for_s
    with suppress(KeyboardInterrupt), Live(_table(trial, observer), console=console, auto_refresh=False) as live:
        while (left := end - time.monotonic()) > 0:
            _follow(transport, observer, min(left, _REFRESH_S))
            live.update(_table(trial, observer), refresh=True)


def _follow(transport: Transport, observer: Observer, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        packet = transport.receive(min(left, 0.2))
        if packet is not None:
            observer.take(packet.topic, packet.payload, time.monotonic())


def _table(trial: Trial, observer: Observer) -> Table:
    server = "a server leads it" if observer.server_online else "no server"
    table = Table(title=f"trial {trial.name}: {server}", title_justify="left", box=None, header_style="bold")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in _COLUMNS[:2] else "right", no_wrap=True)
    for each in observer.statuses(time.monotonic()):
        table.add_row(*_row(each))
    return table


def _row(of: DeviceStatus) -> list[str]:
    return [
        of.device,
        of.state,
        "" if of.epoch is None else str(of.epoch),
        "" if of.step is None else str(of.step),
        "" if of.last_seen_s is None else f"{of.last_seen_s:.1f}",
        f"{of.up_kb_s:.1f}",
        f"{of.down_kb_s:.1f}",
        "" if of.round_trip_ms is None else f"{of.round_trip_ms:.1f}",
        "" if of.repeated is None else f"{of.repeated:.1%}",
        f"{of.backlog_bytes / 1e3:.1f} kB",
    ]
