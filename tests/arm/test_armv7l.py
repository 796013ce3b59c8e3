"""A whole device on 32-bit ARM: an emulated Cortex-A7 with packages of Debian and PyPI, as docs/install.md says.

Neither has msgspec. A Raspberry Pi gets it from piwheels; here it is compiled for the board.
"""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from arm.board import Board, trial_with
from arm.root import make_root
from cutlayer_flash import packages
from needs import need

pytestmark = [pytest.mark.slow, pytest.mark.arm]
REPOSITORY = Path(__file__).parents[2]
EMULATOR, COMPILER, PROCESSOR = "qemu-arm-static", "arm-linux-gnueabihf-gcc", "cortex-a7"
PLATFORMS = ["manylinux2014_armv7l", *(f"manylinux_2_{minor}_armv7l" for minor in range(17, 37))]
ELSEWHERE = {"numpy", "pillow", "msgspec", "zstandard", "ai-edge-litert", "cryptography"}
ALONE = ["cryptography>=42", "tflite-runtime==2.14.0"]
"""pip would look for what these need, which the system has."""
OWN = (
    "core/cutlayer_core",
    "device_runtime/cutlayer_device",
    "device_runtime/cutlayer_flash",
    "profiles/cutlayer_profiles",
)


def pip(*words):
    subprocess.run([sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", *map(str, words)], check=True)


def compile_msgspec(root, site, folder):
    """Its sources are one file of C, and Python."""
    wanted = f"msgspec=={version('msgspec')}"
    pip("download", "--no-binary", ":all:", "--no-deps", "--dest", folder, wanted)
    (source,) = folder.glob("msgspec-*.tar.gz")
    shutil.unpack_archive(source, folder)
    (core,) = folder.glob("msgspec-*/**/_core.c")
    shutil.copytree(core.parent, site / "msgspec")
    headers = [f"-I{root}/usr/include/python3.11", f"-I{root}/usr/include"]
    library = site / "msgspec" / "_core.cpython-311-arm-linux-gnueabihf.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O2", "-w", *headers, core, "-o", library], check=True)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    need(EMULATOR, COMPILER, "apt-get")
    cache = Path(os.environ.get("CUTLAYER_CACHE", "runs/arm"))
    root = make_root(cache, architecture="armhf")
    folder = tmp_path_factory.mktemp("packages")
    site = folder / "site"
    others = [each for each in packages.requirements("device-tflite") if Requirement(each).name not in ELSEWHERE]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    onto = ["install", *platforms, "--python-version", "3.11", "--only-binary", ":all:", "--target", site]
    pip(*onto, *others)
    pip(*onto, "--no-deps", *ALONE)
    compile_msgspec(root, site, folder)
    for each in OWN:
        shutil.copytree(REPOSITORY / each, site / Path(each).name)
    # On a real system alternatives link to these folders.
    libraries = [root / "usr" / "lib" / "arm-linux-gnueabihf" / each for each in ("blas", "lapack")]
    return Board(EMULATOR, root, "python3.11", site, libraries)


@pytest.mark.parametrize("form", ["generic", "xnnpack"])
def test_it_trains_as_here(board, bundles, digits, tmp_path, form):
    board.assert_trains_as_here(PROCESSOR, bundles[form], digits / "board-1.npz", tmp_path)


def test_it_takes_part_in_a_trial_of_this_machine(board, bundles, digits, broker, tmp_path):
    words = ["-m", "cutlayer_device", "run", "--bundle", bundles["generic"], "--name", "board-1"]
    words += [
        "--broker",
        f"{broker.host}:{broker.port}",
        "--data",
        digits / "board-1.npz",
        "--state",
        tmp_path / "state-1",
    ]
    assert trial_with(board.command(PROCESSOR, *words), digits, broker, tmp_path, ends=True) == 0
