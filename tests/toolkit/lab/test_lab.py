"""`cutlayer trial run` as its user runs it: a whole trial over shaped links, with real processes."""

import json
import subprocess
import sys

import pytest

from cutlayer.lab.links import LINKS
from cutlayer_core.record.events import ClientPass
from cutlayer_core.record.record import read_run


def trial_run(folder, *options):
    command = [sys.executable, "-m", "cutlayer", "trial", "run", str(folder / "trial.toml"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder, check=False)


@pytest.fixture
def short(digits, tmp_path):
    """The digits with two epochs."""
    for name in ("test.npz", "board-1.npz", "board-2.npz"):
        (tmp_path / name).symlink_to(digits / name)
    text = (
        (digits / "trial.toml")
        .read_text()
        .replace("epochs = 40", "epochs = 2")
        .replace("patience_s = 5", "patience_s = 20")
    )
    (tmp_path / "trial.toml").write_text(text)
    return tmp_path


@pytest.mark.slow
def test_a_trial_over_a_bad_link_says_where_its_time_went(short):
    done = trial_run(short, "--link", "wifi-good", "--link", "board-2=wifi-power-save", "--run-dir", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] is True
    run = read_run(short / "run")
    assert run.links == {"board-1": LINKS["wifi-good"], "board-2": LINKS["wifi-power-save"]}
    network = {
        name: sum(each.phases_s["network"] for each in run.all(ClientPass) if each.device == name) for name in run.links
    }
    steps = run.summary.steps / 2
    assert network["board-1"] > steps * 4 * LINKS["wifi-good"].delay_ms / 1e3 / 2
    assert network["board-2"] > network["board-1"]
    page = (short / "run" / "report.html").read_text()
    assert "beacons every 102.4" in page
    assert "Shaped in the lab, not measured in the field." in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--link", "wifi"], "--link: found 'wifi', allowed: wifi-good"),
        (["--data", "elsewhere"], "has no samples of board-1: put them at elsewhere/board-1.npz or elsewhere/board-1/"),
    ],
)
def test_a_mistake_is_named_before_anything_is_begun(short, options, message):
    done = trial_run(short, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (short / "runs").exists()
