"""Run rows of the papers' tables, each with several seeds; what is there already is not run again.

python benchmarks/reproduce/run.py --data FOLDER [--tables mnist ...] [--rows fp8 ...] [--seeds 1 2 3] [--processes 2]
    [--torch-device cuda] [--threads 1] [--mqtt]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import msgspec
import torch
from fedavg import fedavg
from inputs import prepare
from memory import run_in_memory
from pretrain import pretrained
from tables import FEDAVG, RESULTS, TABLES, rows

from cutlayer_core.record.events import EpochDone, Step
from cutlayer_core.record.record import Run, read_run
from cutlayer_core.trial.trial import Seeds, Trial, read_trial
from cutlayer_cut import build_model, list_cuts
from cutlayer_server.model.processor import name_of, processor

CACHE = Path("runs") / "reproduce"


class Machine(NamedTuple):
    """How a run is run: through MQTT or in memory, where the server's half is, threads of each board."""

    mqtt: bool
    torch_device: str
    threads: int

    @property
    def transport(self) -> str:
        return "mqtt" if self.mqtt else "memory"


def run_row(table: str, path: Path, seed: int, source: Path, machine: Machine) -> dict[str, Any]:
    """One run: its settings, accuracy, traffic, client compute and wall time."""
    place = processor(machine.torch_device)
    row = path.stem
    if row == FEDAVG:
        path = path.with_name("vanilla.toml")
    trial = msgspec.structs.replace(read_trial(path), seeds=Seeds(weights=seed, data=seed), target_accuracy=None)
    trial, inputs = prepare_row(table, trial, source, place)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if row == FEDAVG:
            found = fedavg(trial, inputs, seed, place)
        elif machine.mqtt:
            found = measured(trial, run_in_lab(path, trial, seed, inputs, Path(folder)))
        else:
            found = measured(trial, run_in_memory(trial, inputs, Path(folder), place, machine.threads))
    return {
        "table": table,
        "row": row,
        "seed": seed,
        "transport": machine.transport,
        "processor": name_of(place),
        "date": time.strftime("%Y-%m-%d"),
        "wall_s": round(time.perf_counter() - began, 1),
        **found,
    }


def prepare_row(table: str, trial: Trial, source: Path, place: torch.device) -> tuple[Trial, Path]:
    """The trial with the weights that it begins with, and the folder with its data; both made if they are not there."""
    inputs = prepare(TABLES[table], list(trial.devices), source, CACHE / "data")
    if trial.model.weights:
        weights = pretrained(trial, inputs / "pretraining.npz", trial.seeds.weights, CACHE / "pretrained", place)
        trial = msgspec.structs.replace(trial, model=msgspec.structs.replace(trial.model, weights=str(weights)))
    return trial, inputs


def run_in_lab(path: Path, trial: Trial, seed: int, inputs: Path, folder: Path) -> Run:
    """Through a real broker and processes, as a user would."""
    text = path.read_text().replace(
        'weights = "pretrained.safetensors"', f'weights = "{Path(trial.model.weights).resolve()}"'
    )
    for key in ("weights", "data"):
        text = text.replace(f"{key} = 1\n", f"{key} = {seed}\n")
    (folder / "trial.toml").write_text(text.replace('test = "test.npz"', f'test = "{(inputs / "test.npz").resolve()}"'))
    command = [sys.executable, "-m", "cutlayer", "trial", "run", str(folder / "trial.toml"), "--data", str(inputs)]
    subprocess.run([*command, "--run-dir", str(folder / "run"), "--json"], check=True, stdout=subprocess.DEVNULL)
    return read_run(folder / "run")


def measured(trial: Trial, run: Run) -> dict[str, Any]:
    """What the page shows, from the run record alone; client compute by counting passes."""
    epochs, steps = run.all(EpochDone), run.all(Step)
    modes = [epoch.mode for epoch in epochs]
    forward, backward = passes(epochs, steps)
    f, b = client_mflop(trial)
    raw = 2 * sum(step.raw_payload_bytes for step in steps)
    return {
        "accuracy": round(100 * epochs[-1].test_accuracy, 2),
        "best_accuracy": round(100 * max(epoch.test_accuracy for epoch in epochs), 2),
        "accuracies": [round(100 * epoch.test_accuracy, 2) for epoch in epochs],
        "losses": [round(epoch.loss, 4) for epoch in epochs],
        "modes": "".join({"exchange": "A", "forward": "B", "silent": "C"}.get(mode, "m") for mode in modes),
        "up_bytes": run.summary.up_bytes,
        "down_bytes": run.summary.down_bytes,
        "up_payload_bytes": run.summary.up_payload_bytes,
        "down_payload_bytes": run.summary.down_payload_bytes,
        "raw_payload_bytes": raw,
        "client_gflop": round((forward * f + backward * b) / 1e3, 1),
        "vanilla_client_gflop": round(sum(step.samples for step in steps) * (f + b) / 1e3, 1),
    }


def passes(epochs: list[EpochDone], steps: list[Step]) -> tuple[int, int]:
    """Samples that clients passed forward, and backward."""
    counts: Counter[str] = Counter()
    for step in steps:
        epoch = epochs[step.epoch]
        counts[epoch.modes.get(step.device, epoch.mode)] += step.samples
    return counts["exchange"] + counts["forward"], counts["exchange"]


def client_mflop(trial: Trial) -> tuple[float, float]:
    """Forward and backward, a sample."""
    example = torch.zeros(2, *trial.model.input_shape)
    costs = {each.cut: each for each in list_cuts(build_model(trial.model, 1), example)}[trial.model.cut]
    return costs.forward_mflop, costs.backward_mflop


def done(table: str) -> set[tuple[str, int, str]]:
    """Rows, seeds and transports that need not be run again."""
    path = RESULTS / f"{table}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {(line["row"], line["seed"], line["transport"]) for line in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with mnist.npz and cifar10.tar.gz")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--rows", nargs="+", help="names of trial files; all of a table by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--mqtt", action="store_true", help="a real broker and real processes")
    parser.add_argument("--torch-device", default="cpu", help="where the server's half runs, such as cuda")
    parser.add_argument("--threads", type=int, default=1, help="of each board")
    options = parser.parse_args()
    if options.mqtt and options.torch_device != "cpu":
        parser.error("--torch-device: the processes of --mqtt run on the CPU")
    machine = Machine(options.mqtt, options.torch_device, options.threads)
    wanted = [  # every row once before any row twice
        (table, path, seed)
        for seed in options.seeds
        for table in options.tables
        for path in rows(table)
        if (not options.rows or path.stem in options.rows) and (path.stem, seed, machine.transport) not in done(table)
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    print(f"{len(wanted)} runs to do")
    for table in {table for table, *_ in wanted}:  # before there are several who would
        for path in rows(table):
            if path.stem != FEDAVG:
                prepare_row(table, read_trial(path), options.data, processor(machine.torch_device))
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        futures = {
            pool.submit(run_row, table, path, seed, options.data, machine): (table, path.stem, seed)
            for table, path, seed in wanted
        }
        for number, future in enumerate(as_completed(futures), 1):
            table, row, seed = futures[future]
            try:
                line = future.result()
            except Exception as error:  # noqa: BLE001 - one row must not end all others; it is said
                print(f"{number}/{len(wanted)}  {table} {row} seed {seed}: FAILED: {error}", flush=True)
                continue
            with (RESULTS / f"{table}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            traffic = (line["up_bytes"] + line["down_bytes"]) / 1e6
            print(
                f"{number}/{len(wanted)}  {table} {row} seed {seed}: {line['accuracy']} %, {traffic:.1f} MB, "
                f"{line['modes']}, {line['wall_s']} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
