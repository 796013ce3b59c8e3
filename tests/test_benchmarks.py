"""Benchmarks that can be asked for little still run, so that their results can be had again."""

import subprocess
import sys
from pathlib import Path

import msgspec
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


@pytest.mark.needs("mosquitto")
def test_links_are_measured():
    lines = run("links.py", "--megabytes", "0.25", "--rounds", "1", "--json").splitlines()
    rows = [msgspec.json.decode(line) for line in lines]
    assert len({row["link"] for row in rows}) == 4
    assert all(0 < row["share_of_rate"] <= 1 for row in rows if "window" in row)
    assert all(row["times"] > 0 for row in rows if "times" in row)
