"""``cutlayer serve``."""

import logging
from pathlib import Path

import msgspec
import torch
from rich.console import Console
from rich.logging import RichHandler

from cutlayer_core.record.record import Record, Summary, free_run_dir
from cutlayer_core.samples import data
from cutlayer_core.trial.codec_summary import codec_summary
from cutlayer_core.trial.trial import Broker, read_trial
from cutlayer_core.wire import topics
from cutlayer_core.wire.presence import will_of
from cutlayer_profiles.report import write_report
from cutlayer_server.fleet.connection import connect
from cutlayer_server.inference import InferenceService
from cutlayer_server.model.processor import processor
from cutlayer_server.progress import ProgressDisplay
from cutlayer_server.training.coordinator import Coordinator, birth_of

__all__ = ["infer", "serve"]

_AGAIN_S = float("inf")
"""A broker that was there may come back."""


def serve(
    trial_file: Path,
    run_dir: Path | None,
    broker: tuple[str, int] | None,
    resume: bool,
    torch_device: str,
    threads: int,
    as_json: bool,
) -> None:
    """Lead a trial from start to report, at the broker of the trial file or, in the clear, at another.

    Raises what `Coordinator`, `MqttTransport` and `processor` raise.
    """
    place = processor(torch_device)
    console = Console(stderr=as_json, highlight=False)
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_time=False, show_path=False)],
    )
    if threads:
        torch.set_num_threads(threads)
    trial = read_trial(trial_file)
    if broker is not None:
        trial = msgspec.structs.replace(trial, broker=Broker(host=broker[0], port=broker[1]))
    test = data.load(trial_file.parent / trial.data.test, trial.model.input, trial.data.classes, part="test")
    coordinator = Coordinator(trial, test, place)
    display = ProgressDisplay(trial.epochs, console)
    connect(trial).close()
    # Last, so that a mistake found before, or a broker that is not there, leaves no folder behind.
    path = run_dir or free_run_dir(Path("runs"), trial.name, resume=resume)
    text = trial_file.read_text("utf-8")
    record = Record(path, text, display.show, resume=resume)
    console.print(f"codec: {codec_summary(text)}", soft_wrap=True, markup=False)
    try:
        with display:
            summary = coordinator.run(lambda will: connect(trial, will, _AGAIN_S), record, display.waiting_for)
    finally:
        report = write_report(record.path)
        console.print(f"report: {report}", soft_wrap=True)
    if as_json:
        print(msgspec.json.encode(summary).decode())
    else:
        console.print(_closing_line(summary), soft_wrap=True)


def infer(trial_file: Path, weights: Path, torch_device: str, threads: int) -> None:
    """Answer the queries of boards with a trained model until Ctrl-C.

    Raises what `InferenceService` and `processor` raise.
    """
    place = processor(torch_device)
    console = Console(highlight=False)
    handler = RichHandler(console=console, show_time=False, show_path=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    if threads:
        torch.set_num_threads(threads)
    trial = read_trial(trial_file)
    service = InferenceService(trial, weights / "model.safetensors" if weights.is_dir() else weights, place)
    birth = birth_of(trial, serves=True)
    transport = connect(trial, will_of(topics.control(trial.name), birth))
    console.print(f"answering {', '.join(trial.devices)} with {weights}; Ctrl-C ends it", soft_wrap=True)
    try:
        service.run(birth, transport)
    finally:
        transport.close()
        console.print(f"{service.answered:,} samples classified")


def _closing_line(summary: Summary) -> str:
    payload = summary.up_payload_bytes + summary.down_payload_bytes
    ways = 2 if summary.down_payload_bytes else 1
    ratio = ways * summary.raw_payload_bytes / payload if payload else 1.0
    saved = 1 - payload / summary.coded_payload_bytes if summary.coded_payload_bytes else 0.0
    lossless = f", of which the lossless stage took off {saved:.0%}" if saved > 0 else ""
    traffic = f"{summary.up_bytes / 1e6:.2f} MB up, {summary.down_bytes / 1e6:.2f} MB down"
    size = f"{ratio:.1f}x smaller than" if round(ratio, 1) != 1.0 else "as large as"
    return f"{summary.steps} steps in {summary.duration_s:.1f} s, {traffic}; tensors {size} float32{lossless}"
