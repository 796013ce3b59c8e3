"""The run record: everything that a run leaves behind, and the only source of what is shown of it.

    runs/<name>/
        trial.toml          the trial file, byte for byte
        environment.json    versions and machine
        events.jsonl        one of the events below a line, in order of time
        summary.json        written when the run ends
        model.safetensors   weights of the whole model, client and server, after the last epoch
        report.html         the same for people

Bytes are sizes of MQTT packets as counted on the server's transport: payloads, headers, acknowledgements and
client weights, without TCP, IP and radio framing.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from cutlayer.errors import UserError

__all__ = ["ClientPass", "Ended", "EpochDone", "Event", "Record", "Run", "Started", "Step", "Summary", "read_run"]

_PACKAGES = ("cutlayer", "numpy", "msgspec", "paho-mqtt", "torch", "onnx", "onnxruntime")


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", kw_only=True):
    time_s: float
    """Since the record was opened."""


class Started(_Line, frozen=True, tag="started"):
    """All devices joined."""

    devices: dict[str, int]
    """Samples by device."""


class Step(_Line, frozen=True, tag="step"):
    """The server updated on one batch."""

    epoch: int
    step: int
    device: str
    samples: int
    loss: float
    correct: int
    up_payload_bytes: int
    down_payload_bytes: int
    raw_payload_bytes: int
    """What each way would have been as float32."""


class ClientPass(_Line, frozen=True, tag="client_pass"):
    """A device finished its pass over its samples."""

    epoch: int
    device: str
    steps: int
    phases_s: dict[str, float]


class EpochDone(_Line, frozen=True, tag="epoch"):
    """Every device finished the epoch, and the model was evaluated on the test set."""

    epoch: int
    mode: str
    loss: float
    accuracy: float
    test_loss: float
    test_accuracy: float
    steps: int
    duration_s: float
    """Training only, without the evaluation."""
    up_bytes: int
    down_bytes: int
    phases_s: dict[str, float]
    """The server's time by phase."""


class Ended(_Line, frozen=True, tag="ended"):
    """The run is over."""

    ok: bool
    reason: str


Event: TypeAlias = Started | Step | ClientPass | EpochDone | Ended


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
    raw_payload_bytes: int
    """Float32 size of the tensors that travelled, one way."""


class Record:
    """Writes a run record; events reach the disk line by line, so a crash loses none that was written.

    Args:
        path: the run's folder; made if it is not there.
        trial_text: the trial file as read.
        watch: called with every event after it was written, to show it.

    Raises:
        UserError: ``path`` already holds a record; nothing is overwritten.
    """

    def __init__(self, path: Path, trial_text: str, watch: Callable[[Event], None] = lambda event: None) -> None:
        self.path, self._watch = path, watch
        if (path / "events.jsonl").exists():
            raise UserError(f"{path} already holds a run: give another folder with --run-dir, or remove it")
        path.mkdir(parents=True, exist_ok=True)
        (path / "trial.toml").write_text(trial_text, encoding="utf-8")
        _write_json(path / "environment.json", _environment())
        self._file = (path / "events.jsonl").open("wb", buffering=0)
        self._start = time.monotonic()

    def now(self) -> float:
        """Seconds since the record was opened, for an event's ``time_s``."""
        return time.monotonic() - self._start

    def write(self, event: Event) -> None:
        """Append one event."""
        self._file.write(msgspec.json.encode(event) + b"\n")
        self._watch(event)

    def close(self, name: str) -> Summary:
        """Write ``summary.json`` from the events, and close."""
        self._file.close()
        summary = _summarise(name, list(_events(self.path)))
        _write_json(self.path / "summary.json", summary)
        return summary


class Run(msgspec.Struct, frozen=True):
    """A finished or broken-off run, read back."""

    path: Path
    trial_text: str
    environment: dict[str, Any]
    events: list[Event]
    summary: Summary

    def all(self, kind: type[Any]) -> list[Any]:
        """The events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]


def read_run(path: Path) -> Run:
    """Read a run record, also one whose run was killed.

    Raises:
        UserError: ``path`` is not a run record.
    """
    try:
        events = list(_events(path))
        text = (path / "trial.toml").read_text(encoding="utf-8")
        environment = msgspec.json.decode((path / "environment.json").read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise UserError(f"{path}: is not a run record: {error}") from error
    return Run(path, text, environment, events, _summarise(path.resolve().name, events))


def _events(path: Path) -> Iterator[Event]:
    decoder = msgspec.json.Decoder(Event)
    with (path / "events.jsonl").open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):  # a killed process may leave half a line
                yield decoder.decode(line)


def _summarise(name: str, events: list[Event]) -> Summary:
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
        raw_payload_bytes=sum(event.raw_payload_bytes for event in steps),
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
