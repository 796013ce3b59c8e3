"""The very release that goes onto a Raspberry Pi, run by an emulated processor; speed says nothing here, numbers and names do."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from arm.root import make_root
from cutlayer.events import EpochDone
from cutlayer.record import read_run
from cutlayer.release import DeviceConfig
from cutlayer_flash.archive import read_archive
from cutlayer_flash.boards import target_of
from cutlayer_flash.building import Contents, build

pytestmark = [pytest.mark.slow, pytest.mark.arm]
EMULATOR = "qemu-aarch64-static"
PROCESSORS = {"cortex-a53": "Raspberry Pi 3, Zero 2 W", "cortex-a72": "Raspberry Pi 4", "cortex-a76": "Raspberry Pi 5"}
STEPS = Path(__file__).parent / "steps.py"
RELEASES = [("bookworm", "onnx"), ("trixie", "onnx"), ("bookworm", "xnnpack")]
"""Systems, and the bundles on them."""


class Board:
    """A root with a release in it."""

    def __init__(self, root, release, python, bundle):
        self.root, self.release, self.python, self.bundle = root, release, python, bundle

    def command(self, processor, *words):
        # -L has absolute paths mean those of the root where it has them, hence also /proc/cpuinfo.
        settings = {"PYTHONPATH": self.release / "site", "PYTHONDONTWRITEBYTECODE": "1", "LD_LIBRARY_PATH": ""}
        shown = [word for key, value in settings.items() for word in ("-E", f"{key}={value}")]
        return [
            EMULATOR,
            "-cpu",
            processor,
            "-L",
            str(self.root),
            *shown,
            str(self.root / "usr/bin" / self.python),
            "-s",
            *map(str, words),
        ]

    def run(self, processor, *words):
        done = subprocess.run(self.command(processor, *words), capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"status {done.returncode} (132 is an unknown instruction): {done.stderr}"
        return done.stdout


@pytest.fixture(scope="module", params=RELEASES, ids="-".join)
def board(request, digits, bundles, broker, tmp_path_factory):
    if shutil.which(EMULATOR) is None:
        pytest.fail(f"these tests need {EMULATOR} (apt-get install qemu-user-static)")
    system, kind = request.param
    root = make_root(Path(os.environ.get("CUTLAYER_CACHE", "runs/arm")), system)
    target, folder = target_of("pi4", system), tmp_path_factory.mktemp("release")
    config = DeviceConfig(name="board-1", broker=f"{broker.host}:{broker.port}", data="", energy="none", threads=1)
    built = build(target, Contents(config, bundles[kind], data=digits / "board-1.npz"), folder / "board-1.tar.gz")
    assert built.packed_bytes < 150e6
    with tarfile.open(built.path) as archive:
        archive.extractall(folder)
    return Board(
        root, folder / read_archive(built.path).folder, target.system.interpreter.rsplit("/", 1)[1], bundles[kind]
    )


@pytest.mark.parametrize("processor", PROCESSORS)
def test_it_imports_checks_its_certificate_and_trains_as_here(board, digits, tmp_path, processor):
    assert "cut at 'stem'" in board.run(processor, "-m", "cutlayer", "device", "check", board.release / "config.toml")
    bundle, samples = board.bundle, digits / "board-1.npz"
    board.run(processor, STEPS, bundle, samples, tmp_path / "arm.npz")
    subprocess.run([sys.executable, str(STEPS), bundle, samples, tmp_path / "here.npz"], check=True)
    arm, here = np.load(tmp_path / "arm.npz"), np.load(tmp_path / "here.npz")
    assert set(arm.files) == set(here.files)
    for name in here.files:
        assert np.abs(arm[name] - here[name]).max() <= 1e-4 * max(np.abs(here[name]).max(), 1e-3), name


def test_it_takes_part_in_a_trial_of_this_machine(board, digits, broker, tmp_path):
    """As the service that it is, with a server and another board here, through a real broker."""
    text = (digits / "trial.toml").read_text()
    text = "epochs = 2\npatience_s = 60\n" + "\n".join(
        line for line in text.splitlines() if not line.startswith(("epochs", "target_accuracy", "patience_s"))
    )
    text = text.replace('test = "test.npz"', f'test = "{digits / "test.npz"}"')
    (tmp_path / "trial.toml").write_text(text)
    address = f"{broker.host}:{broker.port}"
    serve = [
        sys.executable,
        "-m",
        "cutlayer",
        "serve",
        str(tmp_path / "trial.toml"),
        "--broker",
        address,
        "--run-dir",
        str(tmp_path / "run"),
    ]
    other = [
        sys.executable,
        "-m",
        "cutlayer",
        "device",
        "run",
        "--bundle",
        str(digits / "client.bundle"),
        "--broker",
        address,
    ]
    other += ["--data", str(digits / "board-2.npz"), "--name", "board-2", "--state", str(tmp_path / "state-2")]
    service = ["-m", "cutlayer", "device", "service", board.release / "config.toml", "--state", tmp_path / "state-1"]
    with (tmp_path / "log").open("w") as log:
        devices = [subprocess.Popen(words, stderr=log) for words in (board.command("cortex-a72", *service), other)]
        try:
            done = subprocess.run(serve, capture_output=True, text=True, check=False, timeout=200)
            devices[1].wait(timeout=20)
        finally:
            for device in devices:
                device.terminate()
            statuses = [device.wait(timeout=20) for device in devices]
    assert done.returncode == 0, done.stderr
    epochs = read_run(tmp_path / "run").all(EpochDone)
    assert len(epochs) == 2
    assert epochs[1].test_accuracy > 0.5
    assert statuses == [130, 0], "the service waited for the next trial until it was stopped"
