"""constraints.txt can be met on every Python and system that cutlayer names, from the index, without building anything.

uv reads what the index says of each package; nothing is installed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHONS = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text("utf-8"))
SYSTEMS = ["x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin"]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_they_can_be_met(python, system):
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"),
        *("--python-version", python, "--python-platform", system, "--only-binary", ":all:"),
        *("--constraint", "constraints.txt", "--extra", "dev", "pyproject.toml", "setup/constraints.in"),
    ]
    # PyTorch has wheels for macOS 14 and later.
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    chosen = done.stdout.splitlines()
    assert "torch==2.13.0" in chosen
    pinned = set(re.findall(r"^[^#\s]+==[^\s;]+", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    loose = {line.split(" ;")[0] for line in chosen} - pinned
    assert {line for line in loose if not line.startswith(("cuda-", "nvidia-", "triton"))} == set()
