"""``cutlayer trial status``: who is there, how far they are, and how good their links are."""

import time
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
_COLUMNS = ("device", "state", "epoch", "step", "seen s", "kB/s up", "down", "rtt ms", "again", "queue")


def status(trial_file: Path, watch_s: float, as_json: bool) -> None:
    """Watch a trial for ``watch_s``, or in a terminal until Ctrl-C. Raises what `MqttTransport` raises."""
    trial, console = read_trial(trial_file), Console()
    observer = Observer(trial.name, trial.devices)
    transport = connect(trial)
    try:
        for topic in (topics.control, topics.every_state, topics.every_up, topics.every_down):
            transport.subscribe(topic(trial.name))
        if console.is_terminal and not as_json and not watch_s:
            with Live(_table(trial, observer), console=console, auto_refresh=False) as live:
                while True:
                    _follow(transport, observer, _REFRESH_S)
                    live.update(_table(trial, observer), refresh=True)
        _follow(transport, observer, watch_s or 2.0)
    finally:
        transport.close()
    if as_json:
        found = {"trial": trial.name, "server": observer.server_online, "devices": observer.statuses(time.monotonic())}
        print(msgspec.json.encode(found).decode())
    else:
        console.print(_table(trial, observer))


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
