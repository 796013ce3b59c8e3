"""`cutlayer profile client` as its user runs it, and what it measures, with a meter of known power."""

import json
import subprocess
import sys

import pytest

from cutlayer_core.bundles.bundle import read_bundle
from cutlayer_device.profiling.measurement import Setting, measure_step
from cutlayer_profiles.meters import Root
from cutlayer_profiles.profiler import Profiler
from profiles.boards import Known


def profile(*words):
    command = [sys.executable, "-m", "cutlayer", "profile", "client", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_setting_is_measured_in_a_process_of_its_own(digits, tmp_path):
    bundle, out = digits / "client.bundle", tmp_path / "board.json"
    options = ["--batch-size", 1, "--batch-size", 32, "--threads", 1, "--threads", 2, "--seconds", 0.2]
    done = profile(bundle, *options, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert json.loads(out.read_text()) == found
    assert [(each["batch_size"], each["threads"]) for each in found["steps"]] == [(1, 1), (1, 2), (32, 1), (32, 2)]
    for each in found["steps"]:
        assert set(each["phases_ms"]) == {"forward", "encode", "decode", "backward"}
        assert sum(each["phases_ms"].values()) <= 1.5 * each["step_ms"]
        assert each["payload_bytes"] == 256 * each["batch_size"], "a byte an entry"
        assert each["rss_peak_bytes"] < 300e6
        assert each["energy"] is None


TINY = """
from torch import nn

def tiny():
    return nn.Sequential(nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 2))
"""


def test_every_cut_of_a_folder_is_measured_once(tmp_path):
    (tmp_path / "own.py").write_text(TINY)
    cuts, out = tmp_path / "cuts", tmp_path / "board.json"
    cuts.mkdir()
    (cuts / "002-1.zip").write_bytes(b"half written when the power went")
    words = ["export", "--model", "own:tiny", "--example", "8", "--all-cuts", "--out", "cuts", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "cutlayer", *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    before, cut = json.loads(done.stdout)
    assert (before["cut"], before["bundle"]) == ("0", None)
    assert "left out: model.trainable: the part before the cut has nothing to train" in before["how"]
    assert cut == {"cut": "1", "bundle": "cuts/002-1.zip", "how": "cuts/002-1.zip"}
    first = profile("--all-cuts", cuts, "--batch-size", 2, "--seconds", 0.1, "--out", out)
    assert first.returncode == 0, first.stderr
    sizes = ["--batch-size", 2, "--batch-size", 1]
    more = profile("--all-cuts", cuts, *sizes, "--seconds", 0.1, "--out", out, "--resume", "--json")
    assert "1/1  1, batch 1" in more.stderr
    assert [(each["cut"], each["batch_size"]) for each in json.loads(more.stdout)["steps"]] == [("1", 1), ("1", 2)]


def test_a_mistake_is_named_before_anything_is_measured(digits, tmp_path):
    for words, message in (
        ([tmp_path / "nothing"], "nothing"),
        ([digits / "client.bundle", "--energy", "require=measured"], "--energy: require=measured cannot be had here"),
        ([], "give bundles, or --all-cuts FOLDER"),
        (["--all-cuts", tmp_path], "has no bundles"),
        ([digits / "client.bundle", "--resume"], "--resume: goes on with the file of --out"),
        ([digits / "client.bundle", "--resume", "--out", digits / "trial.toml"], "is no board profile"),
    ):
        done = profile(*words, "--seconds", 0.1)
        assert done.returncode == 2
        assert message in done.stderr
        assert "a step" not in done.stdout


@pytest.mark.alone
def test_a_step_costs_its_share_of_what_the_meter_told(digits):
    profiler = Profiler(Root(), Known(lambda at: 10.0, period_s=0.05))
    cost = measure_step(read_bundle(digits / "client.bundle"), Setting(digits, 32, 1, 0.4, 0.2), profiler)
    profiler.close()
    assert cost.energy.energy_j * cost.steps == pytest.approx(10 * 0.4, rel=0.2)
    assert (cost.energy.kind, cost.energy.scope) == ("measured", "dc_input")
    assert cost.idle_w == pytest.approx(10, rel=0.05)
    assert cost.cpu_ms > 0
