"""A whole round of a small trial, beside the same training in one process of torch.

    python benchmarks/rounds.py --data FOLDER [--rounds 8] [--turns 5] [--json]

Two boards with 512 MNIST images each (FOLDER holds mnist.npz), LeNet with 62 k parameters cut after its second block,
batches of 32, SGD with momentum. A round is an epoch: 32 steps, forward, over a real mosquitto, and back, one after the
other. Boards, broker and server are processes on this machine, each with one thread; torch trains both halves, one
after the other as the server does, in one process with one thread, without a network. Contenders take turns of
a trial each, so that a noisy machine disturbs all; the figure is the median of all rounds but each trial's first. Boards
report the most memory that their process had.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from cutlayer_core.record.events import ClientPass, EpochDone
from cutlayer_core.record.record import read_run

IMAGES, BATCH, BOARDS, TESTED = 512, 32, ("board-1", "board-2"), 100
CODECS = {"raw": 'id = "raw"', "fp8": 'id = "fp8"\nformat = "e4m3"'}
TRIAL = """
name = "rounds"
devices = ["board-1", "board-2"]
epochs = {rounds}

[model]
factory = "cutlayer_cut.zoo.lenet:LeNet"
cut = "features.5"
input_shape = [1, 28, 28]

[data]
test = "test.npz"
batch_size = {batch}

[codec.up]
{codec}

[codec.down]
{codec}

[schedule]
id = "every"

[aggregation]
id = "sequential"

[optimizer.client]
id = "sgd"
learning_rate = 0.01
momentum = 0.9

[optimizer.server]
id = "sgd"
learning_rate = 0.01
momentum = 0.9

[seeds]
weights = 1
data = 1

[broker]
host = "127.0.0.1"
"""


def prepare(data: Path, folder: Path, rounds: int) -> None:
    """Samples and trial files."""
    with np.load(data / "mnist.npz") as mnist:
        for number, name in enumerate(BOARDS):
            part = slice(number * IMAGES, (number + 1) * IMAGES)
            np.savez(folder / f"{name}.npz", x=mnist["x_train"][part, None], y=mnist["y_train"][part].astype(np.uint16))
        np.savez(folder / "test.npz", x=mnist["x_test"][:TESTED, None], y=mnist["y_test"][:TESTED].astype(np.uint16))
    for name, codec in CODECS.items():
        (folder / f"{name}.toml").write_text(TRIAL.format(rounds=rounds, batch=BATCH, codec=codec))


def rounds_of(folder: Path, codec: str, turn: int) -> tuple[list[float], int]:
    """Seconds of each round of a trial, without its evaluation, and the most bytes that a board's process had."""
    run_dir = folder / f"{codec}-{turn}"
    command = [sys.executable, "-m", "cutlayer", "trial", "run", str(folder / f"{codec}.toml"), "--json"]
    subprocess.run([*command, "--run-dir", str(run_dir)], check=True, capture_output=True, cwd=folder)
    run = read_run(run_dir)
    peaks = [each.usage.rss_peak_bytes or 0 for each in run.all(ClientPass) if each.usage is not None]
    return [each.duration_s for each in run.all(EpochDone)][1:], max(peaks)


def torch_rounds(folder: Path, rounds: int) -> Iterator[float]:
    """Seconds of each round in this process."""
    import torch
    from torch import nn

    from cutlayer_core.trial.trial import read_trial
    from cutlayer_cut import build_model, cut_model

    torch.set_num_threads(1)
    recipe = read_trial(folder / "raw.toml").recipe
    halves = cut_model(recipe, build_model(recipe.model, recipe.seed))
    sides = [each.train() for each in (halves.client, halves.server)]
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.01, momentum=0.9) for each in sides]
    loss_of, samples = nn.CrossEntropyLoss(), []
    for name in BOARDS:
        with np.load(folder / f"{name}.npz") as file:
            samples.append((torch.from_numpy(file["x"]) / 255, torch.from_numpy(file["y"].astype(np.int64))))
    for _ in range(rounds):
        begun = time.perf_counter()
        for x, y in samples:
            for chosen in torch.randperm(IMAGES).split(BATCH):
                smashed = sides[0](x[chosen])
                crossing = smashed.detach().requires_grad_()
                loss_of(sides[1](crossing), y[chosen]).backward()
                smashed.backward(crossing.grad)
                for each in optimizers:
                    each.step()
                    each.zero_grad(set_to_none=True)
        yield time.perf_counter() - begun


def measure(folder: Path, rounds: int, turns: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of all rounds, and the most bytes of a board, by contender."""
    peaks = dict.fromkeys(CODECS, 0)
    found: dict[str, list[float]] = {"torch": [], **{name: [] for name in CODECS}}
    for turn in range(turns):
        words = [sys.executable, __file__, "--torch", str(folder), "--rounds", str(rounds)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        found["torch"] += json.loads(done.stdout)[1:]
        for codec in CODECS:
            seconds, peak = rounds_of(folder, codec, turn)
            found[codec] += seconds
            peaks[codec] = max(peaks[codec], peak)
    return found, peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with mnist.npz")
    parser.add_argument("--rounds", type=int, default=8, help="of a trial")
    parser.add_argument("--turns", type=int, default=5, help="trials of each contender")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--torch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.torch:
        print(json.dumps(list(torch_rounds(options.torch, options.rounds))))
        return
    if options.data is None:
        parser.error("--data is missing: the folder with mnist.npz")
    with tempfile.TemporaryDirectory() as folder:
        prepare(options.data, Path(folder), options.rounds)
        found, peaks = measure(Path(folder), options.rounds, options.turns)
    for name, each in found.items():
        row = {"what": name, "median_s": median(each), "least_s": min(each), "most_s": max(each)}
        row["of_torch"] = row["median_s"] / median(found["torch"])
        row["board_bytes"] = peaks.get(name, 0)
        if options.json:
            print(json.dumps(row))
        else:
            print(
                f"{name:6} {row['median_s']:.3f} s a round ({row['least_s']:.3f} to {row['most_s']:.3f}), "
                f"{row['of_torch']:.2f} times torch in one process"
                + (f", {row['board_bytes'] / 1e6:.0f} MB a board" if name in peaks else "")
            )


if __name__ == "__main__":
    main()
