"""The run record: everything that a run leaves behind, and the only source of what is shown of it.

    runs/<name>/
        trial.toml          the trial file, byte for byte
        environment.json    versions and machine
        events.jsonl        one event per line (`cutlayer_core.record.events`), in order of time
        summary.json        written when the run ends
        links.json          in a lab: how each device's link was shaped
        checkpoints/        what the server resumes from after a crash; also cache/, until the run is over
        models/             whole models of devices whose client weights are not averaged
        model.safetensors   weights of the whole model, client and server, after the last epoch
        report.html         the same, for people to read

Bytes are sizes of MQTT packets as counted on the server's transport: payloads, headers, acknowledgements and
client weights, without TCP, IP and radio framing.
"""

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from cutlayer_core.errors import UserError
from cutlayer_core.files import lock_file, replace_file
from cutlayer_core.record.events import Ended, EpochDone, Event, Joined, Missed, Quarantined, Resumed, Started, Step
from cutlayer_core.record.link import Link

__all__ = ["Record", "Run", "Summary", "free_run_dir", "read_run"]

_PACKAGES = ("cutlayer", "numpy", "msgspec", "paho-mqtt", "torch", "onnx", "onnxruntime", "ai-edge-litert")


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """``summary.json``."""

    name: str
    ok: bool
    reason: str
    epochs: int
    steps: int
    duration_s: float
    test_accuracy: float | None
    best_test_accuracy: float | None
    loss: float | None
    up_bytes: int
    down_bytes: int
    up_payload_bytes: int
    down_payload_bytes: int
    coded_payload_bytes: int
    """Both directions together, before the lossless stage."""
    raw_payload_bytes: int
    """Float32 size of the smashed data of all steps, one way, including steps for which nothing travelled."""
    resumed: int = 0
    """How often a side restarted; a step that was done again because of it counts once."""
    quarantined: dict[str, str] = {}
    """Devices that were quarantined, and why."""
    missed: dict[str, int] = {}
    """Number of epochs without a device, by its name."""


class Record:
    """Writes a run record; events reach the disk line by line, so a crash loses none that was written.

    Nothing is ever removed from it: an event `Resumed` says which ones before it no longer count.

    Args:
        path: the run's folder; created if it does not exist.
        trial_text: the trial file as read.
        watch: called with every event once it is written, to show it.
        resume: append to the record that is there, if any.

    Raises:
        UserError: ``path`` already holds a record, or one that cannot be resumed; nothing is overwritten.
    """

    def __init__(
        self,
        path: Path,
        trial_text: str,
        watch: Callable[[Event], None] = lambda event: None,
        *,
        resume: bool = False,
    ) -> None:
        self.path, self._watch = path, watch
        if (path / "events.jsonl").exists() and not resume:
            raise UserError(f"{path} already holds a run: go on with it by --resume, or give another --run-dir")
        self._lock = lock_file(path / ".lock", "stop that server first, or give another --run-dir")
        try:
            lines = _resumable(path, trial_text) if (path / "events.jsonl").exists() else _begun(path, trial_text)
        except (UserError, OSError):
            self._lock.close()
            raise
        self.count = len(_counting(lines))
        """How many of the events written so far count."""
        self.quarantined = _quarantined(lines)
        """Devices that were quarantined, and why."""
        self._file = (path / "events.jsonl").open("ab", buffering=0)
        self._start = time.monotonic() - (lines[-1].time_s if lines else 0.0)

    def now(self) -> float:
        """Seconds since the record was begun, not counting those without a server, for an event's ``time_s``."""
        return time.monotonic() - self._start

    def write(self, event: Event) -> None:
        """Append one event. Raises `OSError` on a full disk; what was written before is whole."""
        line, written = msgspec.json.encode(event) + b"\n", 0
        try:
            while written < len(line):  # a disk that fills up accepts a part, and fails only at the next call
                written += self._file.write(line[written:])
        except OSError:
            self._file.truncate(self._file.tell() - written)
            raise
        self.count = 1 + (event.kept if isinstance(event, Resumed) else self.count)
        self.quarantined |= _quarantined([event])
        self._watch(event)

    def sync(self) -> None:
        """Return once everything written is on the disk."""
        os.fsync(self._file.fileno())

    def devices(self) -> dict[str, int]:
        """Samples of each device when it first took part; read from the disk."""
        found: dict[str, int] = {}
        for line in _lines(self.path):
            if isinstance(line, Started):
                found = line.devices | found
            elif isinstance(line, Joined):
                found.setdefault(line.device, line.samples)
        return found

    def steps_of(self, epoch: int) -> list[Step]:
        """The steps of an epoch that count so far; read from the disk."""
        events = _counting(list(_lines(self.path)))
        return [event for event in events if isinstance(event, Step) and event.epoch == epoch]

    def close(self, name: str) -> Summary:
        """Write ``summary.json`` from the events, and close."""
        self._file.close()
        self._lock.close()
        summary = _summarise(name, list(_lines(self.path)))
        _write_json(self.path / "summary.json", summary)
        return summary


class Run(msgspec.Struct, frozen=True):
    """A finished or interrupted run, read back."""

    path: Path
    trial_text: str
    environment: dict[str, Any]
    events: list[Event]
    """The events that count."""
    faults: list[Resumed | Quarantined | Missed | Joined]
    """Every return to an earlier state, and every device that was quarantined, was missed, or joined later."""
    summary: Summary
    links: dict[str, Link]
    """Links of the devices for which they were shaped, as in a lab."""

    def all(self, kind: type[Any]) -> list[Any]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]


def free_run_dir(root: Path, name: str, *, resume: bool = False) -> Path:
    """``root/name``, or the first of ``root/name-2``, ``-3``, ... that does not exist.

    With ``resume``, it is the newest that does exist, unless its run is over.
    """
    path, number, newest = root / name, 2, None
    while path.exists():
        newest = path
        path, number = root / f"{name}-{number}", number + 1
    unfinished = newest is not None and (newest / "events.jsonl").exists() and not read_run(newest).summary.ok
    return newest if resume and newest is not None and unfinished else path


def read_run(path: Path) -> Run:
    """Read a run record, even one whose run was killed.

    Raises:
        UserError: ``path`` is not a run record.
    """
    try:
        lines = list(_lines(path))
        text = (path / "trial.toml").read_text(encoding="utf-8")
        environment = msgspec.json.decode((path / "environment.json").read_bytes(), type=dict[str, Any])
        links = path / "links.json"
        shaped = msgspec.json.decode(links.read_bytes(), type=dict[str, Link]) if links.exists() else {}
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(f"{path}: is not a run record: {error}") from error
    faults = [line for line in lines if isinstance(line, Resumed | Quarantined | Missed | Joined)]
    return Run(path, text, environment, _counting(lines), faults, _summarise(path.resolve().name, lines), shaped)


def _begun(path: Path, trial_text: str) -> list[Event]:
    replace_file(path / "trial.toml", trial_text.encode())
    _write_json(path / "environment.json", _environment())
    return []


def _resumable(path: Path, trial_text: str) -> list[Event]:
    """The lines of a record to append to, without what a killed process or a power cut left half written."""
    lines = list(_lines(path))
    try:
        same = (path / "trial.toml").read_text(encoding="utf-8") == trial_text
    except OSError as error:
        raise UserError(f"{path}: is no run record that can be resumed: {error}") from error
    if not same:
        raise UserError(f"{path}: the trial file has changed since this run began; give another folder with --run-dir")
    if lines and isinstance(lines[-1], Ended) and lines[-1].ok:
        raise UserError(f"{path}: this run is over: {lines[-1].reason}")
    with (path / "events.jsonl").open("rb+") as file:
        whole = sum(len(file.readline()) for _ in lines)
        file.truncate(whole)
    return lines


def _counting(lines: list[Event]) -> list[Event]:
    """The events that count, after every return to an earlier state."""
    events: list[Event] = []
    for line in lines:
        if isinstance(line, Resumed):
            del events[line.kept :]
        events.append(line)
    return events


def _quarantined(lines: list[Event]) -> dict[str, str]:
    return {line.device: line.reason for line in lines if isinstance(line, Quarantined)}


def _lines(path: Path) -> Iterator[Event]:
    """Every line up to the first that is not whole: a killed process leaves half a line, a power cut may leave zeros."""
    decoder = msgspec.json.Decoder(Event)
    with (path / "events.jsonl").open("rb") as file:
        for line in file:
            try:
                event = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                return
            if not line.endswith(b"\n"):
                return
            yield event


def _summarise(name: str, lines: list[Event]) -> Summary:
    events = _counting(lines)
    epochs = [event for event in events if isinstance(event, EpochDone)]
    steps = [event for event in events if isinstance(event, Step)]
    ended = [event for event in events if isinstance(event, Ended)]
    return Summary(
        name=name,
        ok=bool(ended) and ended[-1].ok,
        reason=ended[-1].reason if ended else "the server was killed or is still running",
        epochs=len(epochs),
        steps=len(steps),
        duration_s=sum(event.duration_s for event in epochs),
        test_accuracy=epochs[-1].test_accuracy if epochs else None,
        best_test_accuracy=max((event.test_accuracy for event in epochs), default=None),
        loss=epochs[-1].loss if epochs else None,
        up_bytes=sum(event.up_bytes for event in epochs),
        down_bytes=sum(event.down_bytes for event in epochs),
        up_payload_bytes=sum(event.up_payload_bytes for event in steps),
        down_payload_bytes=sum(event.down_payload_bytes for event in steps),
        coded_payload_bytes=sum(event.up_coded_bytes + event.down_coded_bytes for event in steps),
        raw_payload_bytes=sum(event.raw_payload_bytes for event in steps),
        resumed=sum(isinstance(line, Resumed) for line in lines),
        quarantined=_quarantined(lines),
        missed=Counter(name for event in epochs for name in event.missing),
    )


def _environment() -> dict[str, Any]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "packages": found,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _write_json(path: Path, content: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
