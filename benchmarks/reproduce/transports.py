"""The beginning of a row, in memory and through a real broker and real processes: are both the same?

    python benchmarks/reproduce/transports.py --data FOLDER --tables full-vgg11 full-resnet18 --row gated-0.3 [--samples 256] [--epochs 3]

For rows that would take this machine days, such as those of full size; the others are shown equal over their whole length (`run.py --mqtt`).
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import msgspec
import numpy as np
from memory import run_in_memory
from run import prepare_row, run_in_lab
from tables import TABLES, TRIALS

from cutlayer_core.record.events import EpochDone, Step
from cutlayer_core.record.record import Run
from cutlayer_core.trial.trial import read_trial
from cutlayer_server.model.processor import CPU


def shortened(inputs: Path, names: list[str], samples: int, folder: Path) -> Path:
    """The first samples of each device, and of the test set."""
    folder.mkdir()
    for name in [*names, "test"]:
        found = np.load(inputs / f"{name}.npz")
        np.savez(folder / f"{name}.npz", **{key: found[key][:samples] for key in found.files})
    return folder


def numbers(run: Run) -> list[tuple[float, ...]]:
    """What has to be equal: each step's loss and payloads, each epoch's accuracy and loss."""
    steps = [(each.loss, each.correct, each.up_payload_bytes, each.down_payload_bytes) for each in run.all(Step)]
    return steps + [(each.loss, each.test_loss, each.test_accuracy) for each in run.all(EpochDone)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with mnist.npz and cifar10.tar.gz")
    parser.add_argument("--tables", nargs="+", required=True, choices=list(TABLES))
    parser.add_argument("--row", required=True, help="name of a trial file")
    parser.add_argument("--samples", type=int, default=256, help="of each device, and of the test set")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    for table in options.tables:
        path = TRIALS / table / f"{options.row}.toml"
        trial = msgspec.structs.replace(read_trial(path), epochs=options.epochs, target_accuracy=None)
        trial, inputs = prepare_row(table, trial, options.data, CPU)
        with tempfile.TemporaryDirectory() as folder:
            short = shortened(inputs, list(trial.devices), options.samples, Path(folder) / "inputs")
            text = path.read_text().replace(f"epochs = {read_trial(path).epochs}\n", f"epochs = {options.epochs}\n")
            (Path(folder) / path.name).write_text(text)
            (Path(folder) / "memory").mkdir()
            (Path(folder) / "mqtt").mkdir()
            one = run_in_memory(trial, short, Path(folder) / "memory", CPU, 1)
            two = run_in_lab(Path(folder) / path.name, trial, trial.seeds.weights, short, Path(folder) / "mqtt")
        equal = numbers(one) == numbers(two)
        steps = len(one.all(Step))
        payload = sum(each.up_payload_bytes + each.down_payload_bytes for each in one.all(Step))
        print(
            f"{table} {options.row}: {steps} steps, {payload / 1e6:.1f} MB of payloads: {'equal' if equal else 'NOT EQUAL'}",
            flush=True,
        )
        if not equal:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
