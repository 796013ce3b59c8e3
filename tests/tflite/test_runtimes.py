"""Every operation and its gradients on every TFLite runtime there is, 32-bit and 64-bit ARM under emulation included."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from arm.board import Board
from arm.root import make_root
from needs import need
from tflite.cases import write_cases

pytestmark = [pytest.mark.slow, pytest.mark.arm]
ROOT = Path(__file__).parents[2]
REPLAY = [Path(__file__).parent / "replay.py", ROOT / "core", ROOT / "device_runtime"]
LITERT, LAST = "ai-edge-litert==2.3.0", "tflite-runtime==2.14.0"


class Machine(NamedTuple):
    """A processor, its Debian, and what its wheels are called."""

    emulator: str
    processor: str
    architecture: str
    platforms: tuple
    numpy: tuple = ("numpy==1.26.4",)
    """Where the system has none of its own."""


MACHINES = {
    "armv7l": Machine("qemu-arm-static", "cortex-a7", "armhf", ("manylinux_2_34_armv7l",), ()),
    "aarch64": Machine(
        "qemu-aarch64-static",
        "cortex-a72",
        "arm64",
        tuple(f"manylinux{each}_aarch64" for each in ("2014", "_2_27", "_2_34")),
    ),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    write_cases(folder)
    return folder


def packages(folder, platforms, *wanted):
    """A folder with these wheels for Python 3.11, and nothing that they say they need."""
    words = [word for platform in platforms for word in ("--platform", platform)]
    words += ["--python-version", "3.11", "--only-binary", ":all:", "--no-deps", "--target", folder]
    subprocess.run([sys.executable, "-m", "pip", "install", "-qq", *words, *wanted], check=True)
    return folder


def replay(command, cases, runtime):
    done = subprocess.run(
        [*map(str, command), *map(str, REPLAY), str(cases)], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(f"{runtime.replace('==', ' ')}: {len(list(cases.iterdir()))} cases, 0 failed"), (
        done.stdout + done.stderr
    )


def test_on_this_machine(cases):
    replay([sys.executable], cases, LITERT)


@pytest.mark.needs("/usr/bin/python3.11")
def test_on_the_last_tflite_runtime(cases, tmp_path):
    """Its own Python, the system's 3.11, and a numpy from before 2."""
    site = packages(tmp_path / "site", ["manylinux2014_x86_64"], LAST, "numpy==1.26.4")
    replay(["env", f"PYTHONPATH={site}", "/usr/bin/python3.11", "-s"], cases, LAST)


@pytest.mark.parametrize(("name", "runtime"), [("armv7l", LAST), ("aarch64", LAST), ("aarch64", LITERT)])
def test_on_arm(cases, tmp_path, name, runtime):
    machine = MACHINES[name]
    need(machine.emulator, "apt-get")
    cache = Path(os.environ.get("CUTLAYER_CACHE", "runs/arm"))
    root = make_root(cache, architecture=machine.architecture)
    site = packages(tmp_path / "site", machine.platforms, runtime, *machine.numpy)
    # On a real system alternatives link to these folders.
    libraries = [root / "usr" / "lib" / "arm-linux-gnueabihf" / each for each in ("blas", "lapack")]
    board = Board(machine.emulator, root, "python3.11", site, libraries)
    replay(board.command(machine.processor), cases, runtime)
