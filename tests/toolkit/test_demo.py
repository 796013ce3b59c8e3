"""`cutlayer demo` as a newcomer runs it: real processes, a real broker."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from cutlayer_core.record.events import ClientPass
from cutlayer_core.record.record import read_run
from cutlayer_core.trial.trial import read_trial


def demo(folder, *options):
    command = [sys.executable, "-m", "cutlayer", "demo", "--run-dir", str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder.parent)


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


def wait_for(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def training(folder):
    events = folder / "events.jsonl"
    return events.exists() and b'"event":"step"' in events.read_bytes()


def board(process, name):
    return [child for child in children(process) if name in child.cmdline() and "cutlayer_device" in child.cmdline()]


def test_the_demo_reaches_95_percent_within_a_minute_and_leaves_a_record(tmp_path):
    run_dir = tmp_path / "demo"
    finished = demo(run_dir)
    out, err = finished.communicate(timeout=120)
    assert finished.returncode == 0, out + err
    assert f"report: {run_dir}/report.html" in out
    assert "97.0%" in out
    assert "\ncodec: up fp8, down fp8\nwaiting for" in out
    run = read_run(run_dir)
    assert run.summary.test_accuracy >= 0.95
    assert run.summary.duration_s < 60
    for each in run.all(ClientPass):
        assert 0 < each.usage.cpu_s <= each.usage.busy_core_s + 0.1
        assert each.usage.rss_peak_bytes > 30e6
    assert run.trial_text == (run_dir / "inputs" / "trial.toml").read_text()
    for name in ("environment.json", "summary.json", "model.safetensors", "report.html"):
        assert (run_dir / name).stat().st_size > 0
    for name in ("board-1", "board-2"):
        assert "no torch" in (run_dir / "inputs" / f"{name}.log").read_text()


@pytest.mark.slow
def test_a_demo_takes_the_place_of_an_earlier_one(tmp_path):
    for _ in range(2):
        run = demo(tmp_path / "demo", "--json")
        out, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
        assert json.loads(out)["ok"] is True


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_demo_that_is_stopped_leaves_nothing_running(tmp_path, how):
    run_dir = tmp_path / "demo"
    running = demo(run_dir)
    wait_for(lambda: training(run_dir))
    processes = children(running)
    assert len(processes) >= 4  # broker, two boards, server
    running.send_signal(how)
    _, err = running.communicate(timeout=20)
    assert running.returncode == (-9 if how is signal.SIGKILL else 130)
    assert "Traceback" not in err
    wait_for(lambda: not any(each.is_running() and each.status() != "zombie" for each in processes), 10.0)


@pytest.mark.slow
def test_a_board_that_is_killed_is_named_by_the_server(tmp_path):
    run_dir = tmp_path / "demo"
    running = demo(run_dir)
    wait_for(lambda: training(run_dir))
    (victim,) = board(running, "board-2")
    killed = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    out, err = running.communicate(timeout=30)
    assert time.monotonic() - killed < 2 * read_trial(run_dir / "trial.toml").patience_s
    assert running.returncode == 1
    assert "board-2 went offline: it was killed, or lost power or network" in out
    assert "board-2 is gone: it was killed, or lost power or network, and did not come back within 5 s" in err
    summary = read_run(run_dir).summary
    assert not summary.ok
    assert "board-2 is gone" in summary.reason
    assert (run_dir / "report.html").exists()
    assert "board-2 is gone" in (run_dir / "inputs" / "board-1.log").read_text()


@pytest.mark.slow
def test_two_demos_in_one_folder_do_not_mix(tmp_path):
    run_dir = tmp_path / "demo"
    first = demo(run_dir)
    wait_for(lambda: training(run_dir))
    second = demo(run_dir)
    _, err = second.communicate(timeout=30)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=20)
    assert second.returncode == 2
    assert "another demo runs there; give --run-dir another folder" in err


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    run_dir = tmp_path / "thesis"
    run_dir.mkdir()
    (run_dir / "chapter.txt").write_text("mine")
    refused = demo(run_dir)
    _, err = refused.communicate(timeout=30)
    assert refused.returncode == 2
    assert "holds files that are no demo's" in err
    assert (run_dir / "chapter.txt").read_text() == "mine"


@pytest.mark.slow
def test_the_demo_runs_on_amqtt_where_mosquitto_is_not_installed(tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    assert shutil.which("mosquitto") is None
    finished = demo(tmp_path / "demo")
    out, err = finished.communicate(timeout=120)
    assert finished.returncode == 0, out + err
    assert "broker      amqtt" in out
