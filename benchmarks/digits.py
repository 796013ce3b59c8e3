"""Accuracy and traffic of the demo's trial by codec and aggregation, through the real stack: processes and MQTT.

    python benchmarks/digits.py [--epochs 12] [--seeds 1 2 3 4 5 6] [--json]

Two boards, scikit-learn's digits (1,437 training and 360 test images). Each run is a broker, a server and two device
processes; a seed decides initial weights and order.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

from cutlayer.demo import prepare
from cutlayer.lab.broker import Broker, start_broker
from cutlayer.lab.processes import start, stop

CODECS = {
    "raw": ('id = "raw"', 'id = "raw"'),
    "fp16": ('id = "fp16"', 'id = "fp16"'),
    "fp8": ('id = "fp8"\nformat = "e4m3"', 'id = "fp8"\nformat = "e4m3"'),
    "fp8, E5M2 down": ('id = "fp8"\nformat = "e4m3"', 'id = "fp8"\nformat = "e5m2"'),
}
AGGREGATIONS = ("sequential", "splitfed")


def write_trial(folder: Path, codec: str, aggregation: str, seed: int, epochs: int) -> Path:
    """The demo's trial file with the given settings, run to the last epoch."""
    text = (folder / "trial.toml").read_text()
    fp8, (up, down) = 'id = "fp8"\nformat = "e4m3"', CODECS[codec]
    before, between, after = re.split(re.escape(fp8), text)
    text = f"{before}{up}{between}{down}{after}"
    text = text.replace('id = "sequential"', f'id = "{aggregation}"').replace("target_accuracy = 0.97\n", "")
    text = re.sub(r"epochs = \d+", f"epochs = {epochs}", text)
    text = text.replace("weights = 1\ndata = 1", f"weights = {seed}\ndata = {seed}")
    path = folder / f"{list(CODECS).index(codec)}-{aggregation}-{seed}.toml"
    path.write_text(text)
    return path


def run(folder: Path, broker: Broker, trial: Path) -> dict[str, object]:
    """One run; its summary."""
    python = [sys.executable, "-m"]
    devices = [
        start(
            [
                *python,
                "cutlayer_device",
                "run",
                "--bundle",
                str(folder / "client.bundle"),
                "--name",
                name,
                "--broker",
                f"{broker.host}:{broker.port}",
                "--data",
                str(folder / f"{name}.npz"),
                "--threads",
                "1",
            ],
            folder / f"{name}.log",
        )
        for name in ("board-1", "board-2")
    ]
    command = [*python, "cutlayer", "serve", str(trial), "--run-dir", str(folder / "runs" / trial.stem), "--json"]
    try:
        out = subprocess.run(
            [*command, "--threads", "1"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    finally:
        stop(devices)
    return dict(json.loads(out.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with start_broker(folder) as broker:
            prepare(folder, broker.port)
            bundle = str(folder / "client.bundle")
            export = [sys.executable, "-m", "cutlayer", "export", str(folder / "trial.toml"), "--out", bundle]
            subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
            for aggregation in AGGREGATIONS:
                for codec in CODECS:
                    trials = [write_trial(folder, codec, aggregation, seed, options.epochs) for seed in options.seeds]
                    runs = [run(folder, broker, trial) for trial in trials]
                    table.append({"aggregation": aggregation, "codec": codec, "seeds": options.seeds, "runs": runs})
                    print(f"{aggregation} {codec}: done", file=sys.stderr)
    if options.json:
        print(json.dumps(table, indent=2))
        return
    print(f"{options.epochs} epochs, seeds {options.seeds}; test accuracy after the last epoch in %")
    print(f"{'aggregation':<12} {'codec':<15} {'mean':>6}  {'each':<30} {'MB up':>7} {'MB down':>8}")
    for row in table:
        accuracies = [100 * each["test_accuracy"] for each in row["runs"]]
        up, down = (mean(each[key] for each in row["runs"]) / 1e6 for key in ("up_bytes", "down_bytes"))
        each = " ".join(f"{accuracy:.1f}" for accuracy in accuracies)
        print(
            f"{row['aggregation']:<12} {row['codec']:<15} {mean(accuracies):>6.2f}  {each:<30} {up:>7.2f} {down:>8.2f}"
        )


if __name__ == "__main__":
    main()
