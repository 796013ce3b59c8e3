"""Benchmarks that can be asked for little still run, so that their results can be had again."""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone]
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script, *options):
    """What the script prints."""
    command = [sys.executable, str(BENCHMARKS / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.needs("mosquitto")
def test_a_small_fleet_is_measured_beside_its_bare_peers():
    lines = run("fleet.py", "--devices", "2", "--kb", "4", "--seconds", "0.5", "--rounds", "1", "--json").splitlines()
    rows = {row["what"]: row for row in map(msgspec.json.decode, lines)}
    assert len(rows) == 3
    assert all(row["ratio"] > 0 for row in rows.values())


def test_one_client_is_measured_beside_torch():
    shown = run("client_step.py", "--only", "MLP")
    assert "MLP @ act2" in shown
    assert "geometric mean of onnx against eager" in shown


def test_both_ways_of_a_convolution_are_measured():
    lines = run("convolutions.py", "--size", "4").splitlines()
    assert [line.split(":")[0] for line in lines] == ["1 thread", "256 to 512 at 4x4", "2 threads", "256 to 512 at 4x4"]
    assert "winograd" in lines[1]


@pytest.mark.needs("mosquitto")
def test_links_are_measured():
    lines = run("links.py", "--megabytes", "0.25", "--rounds", "1", "--json").splitlines()
    rows = [msgspec.json.decode(line) for line in lines]
    assert len({row["link"] for row in rows}) == 4
    assert all(0 < row["share_of_rate"] <= 1 for row in rows if "window" in row)
    assert all(row["times"] > 0 for row in rows if "times" in row)


@pytest.mark.needs("mosquitto")
def test_a_round_is_measured_beside_torch(tmp_path):
    random = np.random.default_rng(0)
    parts = {"train": 1024, "test": 100}
    images = {f"x_{part}": random.integers(0, 256, (count, 28, 28), np.uint8) for part, count in parts.items()}
    labels = {f"y_{part}": random.integers(0, 10, count, np.uint8) for part, count in parts.items()}
    np.savez(tmp_path / "mnist.npz", **images, **labels)
    lines = run("rounds.py", "--data", str(tmp_path), "--rounds", "2", "--turns", "1", "--json").splitlines()
    rows = {row["what"]: row for row in map(msgspec.json.decode, lines)}
    assert rows.keys() == {"torch", "raw", "fp8"}
    assert all(row["median_s"] > 0 for row in rows.values())
