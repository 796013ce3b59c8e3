"""Which Pythons the set-up takes: stand-ins that say a version, and what this machine has."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from versions import interpreter

ROOT = Path(__file__).parents[2]
PYTHON = """\
#!/bin/sh
case $* in
  --version) echo "Python {version}.1" ;;
  *version_info*) echo {version} ;;
  *ensurepip*) exit {without_venv} ;;
  *) echo "ran: $*" ;;
esac
"""


@pytest.fixture
def path(tmp_path):
    """A folder with stand-ins for Pythons; PATH has nothing else but a shell's needs."""
    for tool in ("sh", "uname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    return tmp_path


def add_python(path, name, version, without_venv=0):
    (path / name).write_text(PYTHON.format(version=version, without_venv=without_venv))
    (path / name).chmod(0o755)


def run(python, path):
    command = ["sh", "setup/run.sh", python, "demo"]
    return subprocess.run(command, cwd=ROOT, env={"PATH": str(path)}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_these_are_taken(path, version):
    add_python(path, "python3", version)
    assert run("python3", path).stdout == "ran: -m setup.environment demo\n"


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.9", "3.14"])
def test_others_are_refused_with_the_version_the_need_and_the_way_out(path, version):
    add_python(path, "python3", version)
    done = run("python3", path)
    assert done.returncode == 2
    assert done.stderr == (
        f"python3 is Python {version}; cutlayer needs Python 3.10 to 3.13. Name another: make demo PYTHON=python3.12\n"
    )


def test_the_one_named_is_one_that_is_there(path):
    add_python(path, "python3", "3.9")
    add_python(path, "python3.10", "3.10")
    assert run("python3", path).stderr.endswith("make demo PYTHON=python3.10\n")


def test_no_python_at_all_is_said(path):
    assert "python3 was not found, or does not start; cutlayer needs Python 3.10" in run("python3", path).stderr


def test_a_python_without_venv_is_mended_by_one_command(path):
    add_python(path, "python3", "3.11", without_venv=1)
    done = run("python3", path)
    assert done.returncode == 2
    assert "apt-get install python3.11-venv" in done.stderr


def test_on_native_windows_it_points_to_wsl(path):
    (path / "uname").unlink()
    (path / "uname").write_text("#!/bin/sh\necho MINGW64_NT-10.0\n")
    (path / "uname").chmod(0o755)
    add_python(path, "python3", "3.11")
    assert "use WSL" in run("python3", path).stderr


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.9"])
def test_a_real_one_that_is_too_old_is_told_so_too(version):
    found = interpreter(version)
    if found is None:
        pytest.skip(f"Python {version} is not on this machine")
    assert f"is Python {version}; cutlayer needs Python 3.10 to 3.13" in run(found, os.environ["PATH"]).stderr


def test_what_packages_are_made_for_is_what_is_taken():
    classifiers = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if "Python :: 3." in line]
    taken = [line for line in (ROOT / "setup" / "run.sh").read_text().splitlines() if line.endswith(") ;;")]
    versions = [line.split('"')[1].rsplit(" ", 1)[1] for line in classifiers]
    assert taken == [f"  {' | '.join(versions)}) ;;"]
