"""The wheel alone, as it would be uploaded: installed where this repository is not, it runs the demo."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(["make", "dist", f"DIST={folder}", f"BIN={Path(sys.executable).parent}"], cwd=ROOT, check=True)
    (source,) = folder.glob("cutlayer-*.tar.gz")
    (wheel,) = folder.glob("cutlayer-*.whl")
    assert source.stat().st_size < 5e6
    return wheel


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A Python with the wheel, and this environment's packages but not its editable cutlayer, which a .pth file names."""
    folder = tmp_path_factory.mktemp("elsewhere") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", wheel]
    subprocess.run(install, check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_path("purelib"))
    return python


def test_it_holds_every_package_and_nothing_of_the_tests(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    packages = {path.parent.name for path in ROOT.glob("*/cutlayer*/__init__.py")}
    assert {top for top in tops if not top.endswith(".dist-info")} == packages


def test_it_runs_the_demo_in_another_folder(python, tmp_path):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = {"cwd": tmp_path, "env": kept, "capture_output": True, "text": True, "timeout": 120}
    where = subprocess.run([python, "-c", "import cutlayer; print(cutlayer.__file__)"], check=True, **run).stdout
    assert Path(where.strip()).is_relative_to(python.parents[1])
    done = subprocess.run([python.with_name("cutlayer"), "demo"], check=False, **run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reached the target of 97.0%" in done.stdout
    assert (tmp_path / "runs" / "demo" / "report.html").stat().st_size > 100_000
