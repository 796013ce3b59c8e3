"""Every command that the README shows is run here, in the order in which it stands there."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cutlayer.lab.processes import start, stop
from cutlayer_core.trial.trial import read_trial
from cutlayer_core.wire.session import TRANSITIONS, State

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
IN_A_TERMINAL_OF_THEIR_OWN = (
    *("mosquitto", "cutlayer device run", "python -m cutlayer_device run"),
    "cutlayer serve digits/trial.toml --infer",
)


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.needs("mosquitto")
def test_the_commands_that_the_readme_shows_work_in_their_order(tmp_path, monkeypatch, free_port):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    by_hand = [command for command in COMMANDS if not command.startswith("make ")]
    assert len(by_hand) == 23
    background = []
    try:
        for command in by_hand:
            run(command.replace("--broker 127.0.0.1", f"--broker 127.0.0.1:{free_port}"), background)
            for file in (tmp_path / "digits" / "trial.toml", tmp_path / "digits" / "mosquitto.conf"):
                file.write_text(file.read_text().replace("1883", str(free_port)))
        assert (tmp_path / "runs" / "demo" / "report.html").exists()
        for device in background[1:3]:
            assert device.wait(timeout=20) == 0
        assert (tmp_path / "client.bundle" / "backward.onnx").exists()
    finally:
        stop(list(reversed(background)))


def run(command, background):
    if command.startswith(IN_A_TERMINAL_OF_THEIR_OWN):
        background.append(start(command.split(), Path("terminal.log")))
        time.sleep(0.5)
    else:
        subprocess.run(command.split(), check=True, timeout=120)


def test_the_make_targets_that_the_readme_shows_are_there():
    makefile = (ROOT / "Makefile").read_text()
    shown = [command.removeprefix("make ") for command in COMMANDS if command.startswith("make ")]
    assert shown == ["demo", "test"]
    assert all(re.search(rf"^{target}: ", makefile, re.MULTILINE) for target in shown)
    assert "$(BIN)/cutlayer demo\n" in makefile


def test_the_trial_file_that_the_readme_shows_is_one(tmp_path):
    (block,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "trial.toml").write_text(block)
    assert read_trial(tmp_path / "trial.toml").name == "demo"


def test_links_in_the_documents_lead_somewhere():
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8")):
            assert target.startswith("https://") or (document.parent / target).exists(), (document.name, target)


def test_the_diagram_of_the_conversation_is_the_table():
    drawn = set(re.findall(r"^    (\w+) --> (\w+): (.+)$", (ROOT / "docs" / "protocol.md").read_text(), re.MULTILINE))
    table = {
        (before.value, after.value, event.value[1])
        for before, row in TRANSITIONS.items()
        for event, after in row.items()
    }
    assert drawn == table
    assert {name for edge in drawn for name in edge[:2]} == {state.value for state in State}
