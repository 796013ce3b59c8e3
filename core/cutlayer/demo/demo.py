"""Run the four commands of a trial as processes of this machine, and clean up after them."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from rich.console import Console

from cutlayer.broker import mosquitto_conf, start_broker
from cutlayer.demo.digits import write_digits
from cutlayer.errors import CutlayerError, UserError
from cutlayer.files import lock_file
from cutlayer.processes import start, stop

__all__ = ["prepare", "run_demo"]

_DEVICES = ["board-1", "board-2"]
_WRITTEN = ["trial.toml", "environment.json", "events.jsonl", "summary.json", "model.safetensors", "report.html"]
_Process = subprocess.Popen[bytes]


def prepare(folder: Path, port: int = 1883) -> None:
    """Write what a trial on handwritten digits needs: trial file, broker configuration, test set, a share a device.

    Raises:
        UserError: there is a trial file already, perhaps an edited one.
    """
    if (folder / "trial.toml").exists():
        raise UserError(f"{folder} already holds a trial.toml: give another folder, or remove it")
    write_digits(folder, _DEVICES)
    text = resources.files("cutlayer.demo").joinpath("trial.toml").read_text("utf-8")
    (folder / "trial.toml").write_text(text.replace("port = 1883", f"port = {port}"), "utf-8")
    (folder / "mosquitto.conf").write_text(mosquitto_conf(port), "utf-8")


def run_demo(run_dir: Path, as_json: bool) -> None:
    """Export, start a broker, two devices and a server, and wait for the server.

    Everything that the demo makes is under ``run_dir``, and nothing keeps running after it.

    Raises:
        UserError: another demo uses ``run_dir``, or it holds something that is no demo's.
        CutlayerError: one of the processes failed; the text says where its log is.
    """
    console = Console(stderr=as_json, highlight=False)
    inputs = run_dir / "inputs"
    with _own(run_dir), start_broker(inputs) as broker:
        prepare(inputs, broker.port)
        console.print(f"broker      {broker.kind} on {broker.host}:{broker.port}")
        trial, bundle = inputs / "trial.toml", inputs / "client.bundle"
        _export(console, trial, bundle)
        address = f"{broker.host}:{broker.port}"
        devices = [_start_device(console, name, bundle, address, inputs) for name in _DEVICES]
        try:
            _serve(console, trial, run_dir, devices, as_json)
        finally:
            stop(devices)


@contextmanager
def _own(run_dir: Path) -> Iterator[None]:
    """Hold ``run_dir`` for this demo alone, emptied of an earlier one. The mark of a demo is its lock file."""
    mark = run_dir / ".demo"
    if run_dir.exists() and any(run_dir.iterdir()) and not mark.exists():
        raise UserError(f"{run_dir} holds files that are no demo's: give --run-dir another folder")
    with lock_file(mark, "another demo runs there; give --run-dir another folder"):
        for name in _WRITTEN:
            (run_dir / name).unlink(missing_ok=True)
        for name in ("inputs", "checkpoints"):
            shutil.rmtree(run_dir / name, ignore_errors=True)
        (run_dir / "inputs").mkdir()
        yield


def _export(console: Console, trial: Path, bundle: Path) -> None:
    command = [sys.executable, "-m", "cutlayer", "export", str(trial), "--out", str(bundle)]
    console.print(f"export      {_shown(command)}", soft_wrap=True)
    finished = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr if console.stderr else None, check=False
    )
    if finished.returncode:
        raise CutlayerError("the export failed, see above")


def _start_device(console: Console, name: str, bundle: Path, broker: str, inputs: Path) -> _Process:
    samples, log = inputs / f"{name}.npz", inputs / f"{name}.log"
    command = [sys.executable, "-m", "cutlayer_device", "run", "--bundle", str(bundle), "--broker", broker]
    command += ["--data", str(samples), "--name", name, "--state", str(inputs / "state"), "--threads", "1"]
    console.print(f"{name}     {_shown(command)}", soft_wrap=True)
    return start(command, log)


def _serve(console: Console, trial: Path, run_dir: Path, devices: list[_Process], as_json: bool) -> None:
    """Run the server in the foreground; a device that ends early ends the demo."""
    command = [sys.executable, "-m", "cutlayer", "serve", str(trial), "--run-dir", str(run_dir), "--threads", "1"]
    console.print(f"server      {_shown(command)}", soft_wrap=True)
    server = start([*command, *(["--json"] if as_json else [])])
    try:
        while server.poll() is None:
            if any(device.poll() for device in devices):
                server.wait(timeout=10.0)
            time.sleep(0.05)
    except subprocess.TimeoutExpired:
        pass
    finally:
        stop([server])
    if server.returncode:
        logs = ", ".join(str(trial.parent / f"{name}.log") for name in _DEVICES)
        raise CutlayerError(f"the demo's server ended with status {server.returncode}; the devices' logs: {logs}")


def _shown(command: list[str]) -> str:
    """The command as a user would type it."""
    return " ".join(["python", *command[1:]] if command[2] != "cutlayer" else command[2:])
