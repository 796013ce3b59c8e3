"""How long a step of EPSL takes over phi: by the paper's latency model, and measured over shaped links.

    python benchmarks/reproduce/latency.py --data FOLDER [--steps 6]

Five boards, the network and the batch of the table `epsl`, float32 both ways, through a real broker and real processes, in two
places: the server far away, behind a broadband line that all its traffic shares, and every board behind a Wi-Fi of its own. The
model's computing times are those of a run without links; what travels is counted in samples. The machine should be idle.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import msgspec
from inputs import prepare
from tables import RESULTS, TABLES, TRIALS

from cutlayer_core.record.events import ClientPass, EpochDone
from cutlayer_core.record.link import Link
from cutlayer_core.record.record import Run, read_run
from cutlayer_core.trial.trial import read_trial

ROWS = {0.0: "phi-0-mean", 0.25: "phi-0.25-mean", 0.5: "phi-0.5-mean", 0.75: "phi-0.75-mean", 1.0: "phi-1-mean"}
LINE = Link(up_mbit_s=20, down_mbit_s=100, half_duplex=False, delay_ms=10)
WIFI = Link(up_mbit_s=8, down_mbit_s=8, delay_ms=3)
PLACES: dict[str, dict[str, Link]] = {
    "no links": {},
    "server behind a line of 20 Mbit/s up, 100 down": {"server": LINE},
    "each board behind Wi-Fi of 8 Mbit/s": {"": WIFI},
}
EPOCHS = 3
"""The first one is not counted."""


class Costs(NamedTuple):
    """Seconds a step takes a board before it sends and after it has the gradient, and the server in between."""

    before: float
    server: float
    after: float


def measure(phi: float, links: dict[str, Link], inputs: Path, folder: Path) -> Run:
    """A trial of a few steps; its run record."""
    trial = TRIALS / "epsl" / f"{ROWS[phi]}.toml"
    text = trial.read_text().replace("epochs = 20", f"epochs = {EPOCHS}")
    (folder / "trial.toml").write_text(text.replace('test = "test.npz"', f'test = "{inputs / "test.npz"}"'))
    command = [sys.executable, "-m", "cutlayer", "trial", "run", str(folder / "trial.toml"), "--data", str(inputs)]
    for name, link in links.items():
        path = folder / f"link-{name}.toml"
        path.write_text("".join(f"{key} = {json.dumps(getattr(link, key))}\n" for key in link.__struct_fields__))
        command += ["--link", f"{name}={path}" if name else str(path)]
    command += ["--run-dir", str(folder / "run"), "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return read_run(folder / "run")


def step_s(run: Run, devices: int) -> float:
    """Of all devices together."""
    epochs = run.all(EpochDone)[1:]
    return sum(epoch.duration_s for epoch in epochs) / sum(epoch.steps / devices for epoch in epochs)


def costs(run: Run, devices: int) -> Costs:
    """From the phases of a run without links."""
    passes = [each for each in run.all(ClientPass) if each.epoch > 0]
    epochs = run.all(EpochDone)[1:]

    def board(*phases: str) -> float:
        return fmean(sum(each.phases_s.get(phase, 0.0) for phase in phases) / each.steps for each in passes)

    steps = sum(epoch.steps / devices for epoch in epochs)
    server = sum(
        seconds for epoch in epochs for phase, seconds in epoch.phases_s.items() if phase not in ("wait", "checkpoint")
    )
    return Costs(board("load", "forward", "encode", "send"), server / steps, board("decode", "backward"))


def modelled(phi: float, links: dict[str, Link], own: Costs, batch: int, sample_bytes: int, devices: int) -> float:
    """Seconds a step, by Lin et al. (arXiv 2303.15991), with the links in place of their subchannels.

    T = max_i(T_i^F + T_i^U) + T_s + max(T^Bc + T_i^D) + T_i^B, where K boards send b samples each, and the server sends
    m + K(b - m): the shared ones once.
    """
    shared = ceil(phi * batch)
    up = max(
        _transfer(links.get(""), "up", batch * sample_bytes),
        _transfer(links.get("server"), "down", devices * batch * sample_bytes),
    )
    down = max(
        _transfer(links.get(""), "down", batch * sample_bytes),
        _transfer(links.get("server"), "up", (shared + devices * (batch - shared)) * sample_bytes),
    )
    return own.before + up + own.server + down + own.after


def _transfer(link: Link | None, way: str, size: int) -> float:
    if link is None:
        return 0.0
    rate = link.up_mbit_s if way == "up" else link.down_mbit_s
    return link.delay_ms / 1e3 + 8 * size / (rate * 1e6)


def shortened(inputs: Path, folder: Path, devices: tuple[str, ...], samples: int) -> Path:
    """The first samples of each device, and a small test set."""
    import numpy as np

    folder.mkdir()
    for name, count in [*((device, samples) for device in devices), ("test", 256)]:
        with np.load(inputs / f"{name}.npz") as file:
            np.savez(folder / f"{name}.npz", x=file["x"][:count], y=file["y"][:count])
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with cifar10.tar.gz")
    parser.add_argument("--steps", type=int, default=6, help="an epoch")
    options = parser.parse_args()
    trial = read_trial(TRIALS / "epsl" / "phi-0-mean.toml")
    whole = prepare(TABLES["epsl"], list(trial.devices), options.data, Path("runs") / "reproduce" / "data")
    batch, count, lines = trial.data.batch_size, len(trial.devices), []
    with tempfile.TemporaryDirectory() as name:
        inputs = shortened(whole, Path(name) / "inputs", trial.devices, options.steps * batch)
        own: dict[float, Costs] = {}
        for place, links in PLACES.items():
            for phi in ROWS:
                folder = Path(name) / f"{len(lines)}"
                folder.mkdir()
                run = measure(phi, links, inputs, folder)
                own.setdefault(phi, costs(run, count))
                sample_bytes = run.summary.raw_payload_bytes // (run.summary.steps * batch)
                line: dict[str, Any] = {
                    "place": place,
                    "phi": phi,
                    "modelled_s": round(modelled(phi, links, own[phi], batch, sample_bytes, count), 4),
                    "measured_s": round(step_s(run, count), 4),
                    **{key: round(value, 4) for key, value in own[phi]._asdict().items()},
                }
                print(msgspec.json.encode(line).decode(), flush=True)
                lines.append(line)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "latency.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
