"""Run the tests of core and board on other Pythons of this machine, without torch: `python tests/versions.py 3.10 3.13`.

Each gets an environment of its own under .venv. A version that this machine does not have is said to be missing and
passed over; that none is there is an error.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
METERS = ("checks", "doctor", "machine", "meters", "profiler", "recordings")
TESTS = ["tests/core", *(f"tests/profiles/test_{name}.py" for name in METERS)]
PACKAGES = ["pytest", "pytest-xdist", "hypothesis", "ml_dtypes"]
OPTIONS = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not long", "--numprocesses", "auto"]


def interpreter(version: str) -> str | None:
    """The command of this Python version, on PATH or kept by pyenv."""
    candidates = [shutil.which(f"python{version}")]
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += [str(each / "bin" / "python") for each in sorted(kept.glob(f"{version}.*"))]
    for candidate in filter(None, candidates):
        answer = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if (answer.stdout or answer.stderr).startswith(f"Python {version}."):
            return candidate
    return None


def run_tests(version: str, command: str) -> None:
    """Set up an environment, keep it for next time, and run the tests in it."""
    environment = ROOT / ".venv" / f"python{version}"
    python = str(environment / "bin" / "python")
    if not Path(python).exists():
        subprocess.run([command, "-m", "venv", environment], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--editable", f"{ROOT}[device,images,updates,zstd]", *PACKAGES], check=True)
    subprocess.run([python, "-m", "pytest", *OPTIONS, *TESTS], check=True, cwd=ROOT)


def main(versions: list[str]) -> None:
    found = {version: command for version in versions if (command := interpreter(version))}
    for version in versions:
        if version not in found:
            print(f"Python {version} is not on this machine", flush=True)
            continue
        print(f"Python {version}", flush=True)
        run_tests(version, found[version])
    if not found:
        sys.exit("none of these Pythons is on this machine")


if __name__ == "__main__":
    main(sys.argv[1:])
