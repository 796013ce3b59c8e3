"""A trial on handwritten digits, run on this machine or prepared to be run by hand."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from cutlayer.demo.digits import write_digits
from cutlayer.lab.broker import mosquitto_conf, start_broker
from cutlayer.lab.lab import run_lab
from cutlayer_core.errors import UserError
from cutlayer_core.files import lock_file

__all__ = ["prepare", "run_demo"]

_DEVICES = ["board-1", "board-2"]
_WRITTEN = [
    "trial.toml",
    "environment.json",
    "links.json",
    "events.jsonl",
    "summary.json",
    "server",
    "model.safetensors",
    "report.html",
]


def prepare(folder: Path) -> None:
    """Write what a trial on handwritten digits needs: trial file, broker configuration, test set, one share per device.

    Raises:
        UserError: there is already a trial file, perhaps an edited one.
    """
    if (folder / "trial.toml").exists():
        raise UserError(f"{folder} already holds a trial.toml: give another folder, or remove it")
    write_digits(folder, _DEVICES)
    text = resources.files("cutlayer.demo").joinpath("trial.toml").read_text("utf-8")
    (folder / "trial.toml").write_text(text, "utf-8")
    (folder / "mosquitto.conf").write_text(mosquitto_conf(1883), "utf-8")


def run_demo(run_dir: Path, as_json: bool) -> None:
    """Prepare the trial and run it. Everything that the demo makes is under ``run_dir``; nothing keeps running after it.

    Raises:
        UserError: another demo uses ``run_dir``, or it holds files that are not a demo's.
        CutlayerError: one of the processes failed; the text says where its log is.
    """
    inputs = run_dir / "inputs"
    with _own(run_dir), start_broker(inputs) as broker:
        prepare(inputs)
        samples = {name: inputs / f"{name}.npz" for name in _DEVICES}
        run_lab(inputs / "trial.toml", samples, run_dir, broker, links={}, seed=0, as_json=as_json)


@contextmanager
def _own(run_dir: Path) -> Iterator[None]:
    """Lock ``run_dir`` for this demo, and remove what an earlier one left. A demo is recognised by its lock file."""
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
