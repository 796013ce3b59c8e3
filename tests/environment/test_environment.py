"""The set-up meets each kind of machine: real pip and uv, and wheel folders in place of indexes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from environment.wheels import make_wheel

ROOT = Path(__file__).parents[2]
PROJECT = """\
[build-system]
requires = []
build-backend = "wheels"
backend-path = ["."]
"""
UV = "import os, sys\nos.execv({uv!r}, ['uv', *sys.argv[1:]])\n"
NOBODY = "http://127.0.0.1:9/simple"
"""An index where nobody listens."""
linux = pytest.mark.skipif(sys.platform != "linux", reason="for macOS there is one build of PyTorch only")


class Machine:
    """A clone of this repository in which nothing is set up, and folders of wheels that pip and uv are told of.

    uv's wheel holds only a line that starts the uv of this machine; uv is offline, as PyTorch's index is out of reach.
    """

    def __init__(self, folder, empty_venv):
        self.clone, self.for_pip, self.for_uv = (folder / name for name in ("clone", "for-pip", "for-uv"))
        for each in (self.clone, self.for_pip, self.for_uv):
            each.mkdir()
        shutil.copytree(ROOT / "setup", self.clone / "setup")
        shutil.copy(Path(__file__).with_name("wheels.py"), self.clone)
        shutil.copytree(empty_venv, self.clone / ".venv", symlinks=True)
        (self.clone / "pyproject.toml").write_text(PROJECT)
        (self.clone / "constraints.txt").write_text("torch==2.13.0\nsix==1.0 ; python_version < '4'\n")
        make_wheel(self.for_pip, "uv", "0.9", files={"uv/__main__.py": UV.format(uv=uv())})
        make_wheel(self.for_pip, "six", "1.0")

    def add_torch(self, folder, version):
        make_wheel(folder, "torch", version, requires=["six"])

    def set_up(self, **settings):
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_", "PYTHON", "TORCH"))
        }
        folders = {"PIP_FIND_LINKS": str(self.for_pip), "UV_FIND_LINKS": str(self.for_uv), "UV_OFFLINE": "1"}
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
        command = ["sh", "setup/run.sh", sys.executable, "demo"]
        environment = {**kept, **folders, **pip, **settings}
        return subprocess.run(
            command, cwd=self.clone, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    def has(self, package):
        (site,) = self.clone.glob(".venv/lib/python*/site-packages")
        return [path.name.split("-")[1].removesuffix(".dist") for path in site.glob(f"{package}-*.dist-info")]


def uv():
    from uv import find_uv_bin

    return find_uv_bin()


@pytest.fixture(scope="session")
def empty_venv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


@pytest.fixture
def machine(tmp_path, empty_venv):
    return Machine(tmp_path, empty_venv)


def test_the_cpu_build_that_pip_finds_is_taken_before_the_default_one(machine):
    for version in ("2.13.0", "2.13.0+cpu", "2.14.0", "2.14.0+cpu"):
        machine.add_torch(machine.for_pip, version)
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    assert machine.has("torch") == (["2.13.0+cpu"] if sys.platform == "linux" else ["2.13.0"])
    assert (machine.has("cutlayer"), machine.has("uv")) == (["0.0"], [])


@linux
def test_where_pip_finds_only_the_default_build_uv_brings_the_cpu_build_and_pip_what_it_needs(machine):
    machine.add_torch(machine.for_pip, "2.13.0")
    machine.add_torch(machine.for_uv, "2.13.0+cpu")
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    assert (machine.has("torch"), machine.has("six"), machine.has("cutlayer")) == (["2.13.0+cpu"], ["1.0"], ["0.0"])


@linux
def test_the_default_build_is_not_installed_unasked(machine):
    machine.add_torch(machine.for_pip, "2.13.0")
    done = machine.set_up()
    assert done.returncode == 1
    assert "No CPU build of PyTorch 2.13.0 was found" in last_line(done)
    assert "make demo TORCH=any" in last_line(done)
    assert "3 GB" in last_line(done)
    assert machine.has("torch") == []


@linux
def test_asked_for_any_build_it_says_the_size_before_it_installs_the_default_one(machine):
    machine.add_torch(machine.for_pip, "2.13.0")
    done = machine.set_up(TORCH="any")
    assert done.returncode == 0, done.stderr
    assert "TORCH=any: installing the default build, about 3 GB to download" in done.stdout
    assert machine.has("torch") == ["2.13.0"]


def test_without_a_network_it_says_so(machine):
    done = machine.set_up(PIP_NO_INDEX="", PIP_INDEX_URL=NOBODY, PIP_FIND_LINKS="")
    assert done.returncode == 1
    assert last_line(done).startswith("No package index can be reached (")
    assert "Connection refused" in last_line(done)


def test_without_any_pytorch_it_does_not_blame_the_network(machine):
    done = machine.set_up()
    assert done.returncode == 1
    assert last_line(done).startswith("pip finds no PyTorch 2.13.0 where it is configured to look")


def test_a_python_that_pytorch_has_no_build_for_is_named(machine):
    machine.add_torch(machine.for_pip, "2.12.0")
    done = machine.set_up()
    assert done.returncode == 1
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"There is no PyTorch 2.13.0 for Python {version} on " in last_line(done)


def test_a_pytorch_of_this_version_stays_whatever_its_build(machine):
    (site,) = machine.clone.glob(".venv/lib/python*/site-packages")
    shutil.unpack_archive(machine.for_pip / make_wheel(machine.for_pip, "torch", "2.13.0+cu130"), site, "zip")
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    assert machine.has("torch") == ["2.13.0+cu130"]


@pytest.mark.slow
def test_a_venv_that_was_left_half_made_is_made_anew(machine):
    machine.add_torch(machine.for_pip, "2.13.0+cpu")
    machine.add_torch(machine.for_pip, "2.13.0")
    (site,) = machine.clone.glob(".venv/lib/python*/site-packages")
    shutil.rmtree(site / "pip")
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    assert ".venv is made anew: it was not whole" in done.stdout
    assert machine.has("cutlayer") == ["0.0"]


def test_a_package_that_cannot_be_had_ends_in_one_line(machine):
    machine.add_torch(machine.for_pip, "2.13.0+cpu")
    machine.add_torch(machine.for_pip, "2.13.0")
    (machine.for_pip / "six-1.0-py3-none-any.whl").unlink()
    done = machine.set_up()
    assert done.returncode == 1
    assert last_line(done).startswith("pip could not install torch")
    assert "Traceback" not in done.stderr


def last_line(done):
    return done.stderr.strip().splitlines()[-1]
