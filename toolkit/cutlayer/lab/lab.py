"""A whole trial on one machine: broker, links, devices and server as processes, watched and cleaned up after."""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
from rich.console import Console

from cutlayer.lab.broker import Broker, start_broker
from cutlayer.lab.links import SERVER, read_links
from cutlayer.lab.processes import start, stop
from cutlayer.lab.shaper import Shaper
from cutlayer_core.errors import CutlayerError, UserError
from cutlayer_core.record.link import Link
from cutlayer_core.record.record import free_run_dir
from cutlayer_core.trial.trial import read_trial

__all__ = ["lab", "run_lab"]

_Process = subprocess.Popen[bytes]
_LAST_WORDS_S = 10.0
"""How long the server may take to end once a device has failed."""


def lab(
    trial_file: Path,
    data: Path | None,
    run_dir: Path | None,
    choices: Sequence[str],
    seed: int,
    as_json: bool,
    engine: str = "onnx",
) -> None:
    """Run a trial with the data of all its devices on this machine. Raises as `run_lab`, and `UserError` for the options."""
    trial = read_trial(trial_file)
    links = read_links(choices, trial.devices)
    samples = _samples(data or trial_file.parent, trial.devices)
    path = run_dir or free_run_dir(Path("runs"), trial.name)
    inputs = path / "inputs"
    if inputs.exists() or (path / "events.jsonl").exists():
        raise UserError(f"{path} already holds a run: give another --run-dir")
    inputs.mkdir(parents=True)
    with start_broker(inputs) as broker:
        run_lab(trial_file, samples, path, broker, links, seed, as_json, engine)


def run_lab(
    trial_file: Path,
    samples: Mapping[str, Path],
    run_dir: Path,
    broker: Broker,
    links: Mapping[str, Link],
    seed: int,
    as_json: bool,
    engine: str = "onnx",
) -> None:
    """Export, start the devices and a server, and wait for the server.

    Args:
        trial_file: what to do; its broker is not used.
        samples: each device's own.
        run_dir: for the run record; logs, states and the bundle go to its folder ``inputs``, which is there.
        broker: runs.
        links: of the devices, and of `SERVER`, if they do not reach it directly.
        seed: of the links.
        as_json: whether standard output is the server's summary alone.
        engine: that devices run.

    Raises:
        CutlayerError: one of the processes failed; the text says where its log is.
    """
    console = Console(stderr=as_json, highlight=False)
    inputs = run_dir / "inputs"
    bundle = inputs / "client.bundle"
    console.print(f"broker      {broker.kind} on {broker.host}:{broker.port}")
    if links:
        (run_dir / "links.json").write_bytes(msgspec.json.format(msgspec.json.encode(links)) + b"\n")
    _export(console, trial_file, bundle, engine)
    with ExitStack() as stack:
        shapers = {
            name: stack.enter_context(closing(Shaper(link, broker.host, broker.port, seed + 2 * number)))
            for number, (name, link) in enumerate(links.items())
        }
        processes: list[_Process] = []
        stack.callback(lambda: stop(list(reversed(processes))))
        near = f"{broker.host}:{broker.port}"
        addresses = {name: f"{broker.host}:{shaper.port}" for name, shaper in shapers.items()}
        for name, file in samples.items():
            processes.append(
                _start_device(console, name, bundle, addresses.get(name, near), file, inputs, shared=len(samples) > 1)
            )
        address = near if SERVER in samples else addresses.get(SERVER, near)
        processes.append(_start_server(console, trial_file, run_dir, address, as_json))
        for shaper in shapers.values():  # threads, so after the last fork
            shaper.start()
        _await_end(processes[-1], processes[:-1], run_dir)


def _samples(folder: Path, devices: Sequence[str]) -> dict[str, Path]:
    """Each device's own samples: ``<device>.npz``, or a folder ``<device>`` of images."""
    found = {}
    for name in devices:
        choices = [folder / f"{name}.npz", folder / name]
        found[name] = next((path for path in choices if path.exists()), folder)
        if found[name] == folder:
            raise UserError(f"--data {folder}: has no samples of {name}: put them at {choices[0]} or {choices[1]}/")
    return found


def _export(console: Console, trial: Path, bundle: Path, engine: str) -> None:
    command = [sys.executable, "-m", "cutlayer", "export", str(trial), "--out", str(bundle)]
    command += [] if engine == "onnx" else ["--engine", engine]
    console.print(f"export      {_shown(command)}", soft_wrap=True)
    finished = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr if console.stderr else None, check=False
    )
    if finished.returncode:
        raise CutlayerError("the export failed, see above")


def _start_device(
    console: Console, name: str, bundle: Path, broker: str, samples: Path, inputs: Path, *, shared: bool
) -> _Process:
    log = inputs / f"{name}.log"
    command = [sys.executable, "-m", "cutlayer_device", "run", "--bundle", str(bundle), "--broker", broker]
    command += ["--data", str(samples), "--name", name, "--state", str(inputs / "state"), "--threads", "1"]
    if shared:  # a meter of this machine tells nothing of one device in it
        command += ["--energy", "none"]
    console.print(f"{name:<11} {_shown(command)}", soft_wrap=True)
    return start(command, log)


def _start_server(console: Console, trial: Path, run_dir: Path, broker: str, as_json: bool) -> _Process:
    """In the foreground: what it prints is seen."""
    command = [sys.executable, "-m", "cutlayer", "serve", str(trial), "--run-dir", str(run_dir), "--threads", "1"]
    command += ["--broker", broker]
    console.print(f"server      {_shown(command)}", soft_wrap=True)
    return start([*command, *(["--json"] if as_json else [])])


def _await_end(server: _Process, devices: Sequence[_Process], run_dir: Path) -> None:
    """Until the server ends. A device that fails while it still gathers them would be waited for in vain."""
    try:
        while server.poll() is None:
            failed = [device for device in devices if device.poll()]
            if failed and (len(failed) == len(devices) or not _has_begun(run_dir)):
                server.wait(timeout=_LAST_WORDS_S)
            time.sleep(0.05)
    except subprocess.TimeoutExpired:
        stop([server])
    if server.returncode:
        raise CutlayerError(
            f"the server ended with status {server.returncode}; the devices' logs are in {run_dir / 'inputs'}"
        )


def _has_begun(run_dir: Path) -> bool:
    events = run_dir / "events.jsonl"
    return events.exists() and events.stat().st_size > 0


def _shown(command: list[str]) -> str:
    """The command as a user would type it."""
    return " ".join(["python", *command[1:]] if command[2] != "cutlayer" else command[2:])
