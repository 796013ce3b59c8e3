"""The board's program without torch: blocked where it is installed, and in an environment that never had it."""

import os
import pkgutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cutlayer
import cutlayer_core
import cutlayer_device
from cutlayer_core.record.record import Record, read_run
from cutlayer_core.samples import data
from cutlayer_core.wire.transports import MqttTransport
from harness import digits_trial

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    module.name
    for package in (cutlayer, cutlayer_core, cutlayer_device)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    if not module.name.endswith("__main__")
)


def test_every_module_of_board_and_core_imports_where_torch_cannot_be():
    blocked = "import sys; sys.modules.update(torch=None, onnx=None); "
    imports = "; ".join(f"import {name}" for name in MODULES)
    subprocess.run([sys.executable, "-c", blocked + imports], check=True)


@pytest.mark.parametrize(
    ("package", "code", "extra"),
    [
        ("PIL", "read_image(Path('x.png'), InputSpec(shape=(3, 8, 8)))", "images"),
        ("zstandard", "shrink(b'x')", "zstd"),
        ("cryptography", "import cutlayer_device.service.service", "updates"),
    ],
)
def test_what_needs_a_package_that_not_every_board_has_names_it(package, code, extra):
    start = (
        f"import sys; sys.modules['{package}'] = None\n"
        "from pathlib import Path\n"
        "from cutlayer_core.codecs.lossless import shrink\n"
        "from cutlayer_core.errors import UserError\n"
        "from cutlayer_core.samples.data import read_image\n"
        "from cutlayer_core.trial.recipe import InputSpec\n"
    )
    words = [sys.executable, "-c", f"{start}try: {code}\nexcept UserError as error: print(error)"]
    assert f"pip install 'cutlayer[{extra}]'" in subprocess.check_output(words, text=True)


def test_the_boards_program_forbids_torch_to_itself():
    code = (
        "from cutlayer_device.cli import forbid_torch; forbid_torch()\n"
        "try: import torch\n"
        "except ModuleNotFoundError: print('forbidden')"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "forbidden\n"


@pytest.mark.slow
def test_an_environment_with_only_the_boards_packages_trains(broker, digits, tmp_path):
    """`pip install cutlayer[device]` in a new environment, then `python -m cutlayer_device`."""
    from cutlayer_server.training.coordinator import Coordinator

    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--constraint", ROOT / "constraints.txt", f"{ROOT}[device]"], check=True)
    installed = subprocess.check_output([python, "-m", "pip", "freeze"], text=True)
    unwanted = {"torch", "onnx", "matplotlib", "pillow", "cryptography", "zstandard"}
    assert not unwanted & {line.split("==")[0].lower() for line in installed.splitlines()}
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    assert sum(each.stat().st_size for each in packages.rglob("*") if each.is_file()) < 200e6

    trial = digits_trial(digits, name="torch-free", devices=("board-1",), epochs=2, patience_s=20.0)
    command = [python, "-m", "cutlayer_device", "run", "--bundle", digits / "client.bundle", "--trial", trial.name]
    command += ["--broker", f"{broker.host}:{broker.port}", "--data", digits / "board-1.npz", "--name", "board-1"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    board = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    test = data.load(digits / "test.npz", trial.model.input, part="test")
    Coordinator(trial, test).run(
        lambda will: MqttTransport(broker.host, broker.port, "server", will),
        Record(tmp_path / "run", ""),
        lambda missing: None,
    )
    _, log = board.communicate(timeout=30)
    assert board.returncode == 0, log
    assert "no torch" in log
    assert read_run(tmp_path / "run").summary.epochs == 2


def test_a_board_in_training_obeys_sigterm_at_once(broker, digits, tmp_path):
    command = [
        sys.executable,
        "-m",
        "cutlayer_device",
        "run",
        "--bundle",
        digits / "client.bundle",
        "--name",
        "board-1",
    ]
    command += ["--broker", f"{broker.host}:{broker.port}", "--data", digits / "board-1.npz", "--trial", "term"]
    board = subprocess.Popen([*command, "--state", tmp_path], stderr=subprocess.PIPE, text=True)
    assert any("waiting for the server" in line for line in iter(board.stderr.readline, ""))
    start = time.monotonic()
    board.terminate()
    _, log = board.communicate(timeout=10)
    assert time.monotonic() - start < 2.0
    assert board.returncode == 130
    assert "interrupted" in log
