"""What fewer client updates save: every step, loss-gated, and replay with a frozen client, through real processes.

    python benchmarks/savings.py --data FOLDER [--repeats 3] [--epochs 12]

LeNet on MNIST with FP8 both ways, two boards, through a real broker; one trial a schedule and seed, into runs/savings/. Core seconds
and bytes are measured; joules are an estimate from these for a Raspberry Pi 4 and 5, by `cutlayer profile compare`. The formula
beside them counts passes: Chen et al. (arXiv 2107.09786), 3E / (3 n_A + n_B). What is there already is not run again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import msgspec
import torch

sys.path.insert(0, str(Path(__file__).parent / "reproduce"))

from inputs import prepare
from pretrain import pretrained
from tables import TRIALS, Table

from cutlayer_core.trial.trial import Seeds, read_trial

RUNS = Path("runs") / "savings"
TABLE = Table("Savings", "mnist", 12_000, 10_000, pretraining=12_000)
DEVICES = ["board-1", "board-2"]
SCHEDULES = {
    "every": 'id = "every"',
    "loss-gated": 'id = "loss_gated"\nthreshold = 0.05',
    "replay": 'id = "replay"\nperiod = 2',
}
FROZEN = ("replay",)


def trial_text(name: str, seed: int, epochs: int, inputs: Path, weights: Path | None) -> str:
    """As the table's FP8 row, with this schedule."""
    text = (TRIALS / "mnist" / "fp8-e4m3.toml").read_text()
    start, end = text.index("[schedule]"), text.index("[aggregation]")
    text = text[:start] + f"[schedule]\n{SCHEDULES[name]}\n\n" + text[end:]
    text = text.replace('devices = ["board-1"]', 'devices = ["board-1", "board-2"]').replace("sequential", "splitfed")
    text = text.replace("epochs = 6", f"epochs = {epochs}").replace(
        '"test.npz"', f'"{(inputs / "test.npz").resolve()}"'
    )
    for key in ("weights", "data"):
        text = text.replace(f"{key} = 1\n", f"{key} = {seed}\n")
    if weights is not None:
        text = text.replace("[data]", f'trainable = "none"\nweights = "{weights.resolve()}"\n\n[data]', 1)
    return text


def run(name: str, seed: int, epochs: int, inputs: Path, run_dir: Path) -> None:
    weights = None
    path = run_dir.with_suffix(".toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(trial_text(name, seed, epochs, inputs, None))
    if name in FROZEN:
        path.write_text(trial_text(name, seed, epochs, inputs, inputs / "none"))
        trial = msgspec.structs.replace(read_trial(path), seeds=Seeds(weights=seed, data=seed))
        weights = pretrained(trial, inputs / "pretraining.npz", seed, RUNS / "pretrained", torch.device("cpu"))
        path.write_text(trial_text(name, seed, epochs, inputs, weights))
    command = [sys.executable, "-m", "cutlayer", "trial", "run", str(path), "--data", str(inputs)]
    subprocess.run([*command, "--run-dir", str(run_dir), "--json"], check=True, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with mnist.npz")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    inputs = prepare(TABLE, DEVICES, options.data, RUNS / "data")
    for seed in range(1, options.repeats + 1):
        for name in SCHEDULES:
            run_dir = RUNS / name / str(seed)
            if not (run_dir / "summary.json").exists():
                run(name, seed, options.epochs, inputs, run_dir)
    folders = [str(RUNS / name) for name in SCHEDULES]
    for board, slower in (("pi4", "1"), ("pi5", "1"), ("pi4", "6")):
        page = ["--page", str(RUNS / f"savings-{board}-{slower}.html")]
        options = ["--board", board, "--slower", slower]
        print(f"$ cutlayer profile compare {' '.join([*folders, *options])}", flush=True)
        subprocess.run([sys.executable, "-m", "cutlayer", "profile", "compare", *folders, *options, *page], check=True)


if __name__ == "__main__":
    main()
