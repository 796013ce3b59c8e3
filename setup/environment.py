"""Make .venv, with PyTorch and cutlayer in it: `python -m setup.environment demo`; with `dev`, also what the tests need."""

import os
import re
import sys
from pathlib import Path

from setup.pytorch import install_torch
from setup.venv import SetupError, Venv

ROOT = Path(__file__).parents[1]


def torch_version(constraints: str) -> str:
    """The pinned version, without a build."""
    (version,) = re.findall(r"^torch==([0-9.]+)$", constraints, re.MULTILINE)
    return str(version)


def main(extra: str) -> None:
    """Set up what the extra needs; what is there already stays."""
    constraints = ROOT / "constraints.txt"
    venv = Venv(ROOT / ".venv", constraints)
    venv.make()
    install_torch(venv, torch_version(constraints.read_text("utf-8")), any_build=os.environ.get("TORCH") == "any")
    print(f"cutlayer[{extra}] and the packages that it needs")
    venv.install("--editable", f"{ROOT}[{extra}]")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except SetupError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
