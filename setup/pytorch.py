"""Which build of PyTorch to install.

PyPI's build for Linux brings CUDA, gigabytes that a laptop without an accelerator has no use for. PyTorch's own index
has builds for the CPU, labelled `+cpu`. pip takes one from wherever it is configured to look; uv knows where that index is.
"""

import platform
import re
import sys
from typing import NamedTuple

from setup.venv import SetupError, Venv

SIZE = "about 3 GB to download and more than 5 GB on the disk, with CUDA for x86-64"


class Offer(NamedTuple):
    """What pip can install of PyTorch for this Python and processor, and what it said where an index did not answer."""

    versions: frozenset[str]
    trouble: str


def install_torch(venv: Venv, version: str, *, any_build: bool) -> None:
    """Install the CPU build of this version; with ``any_build`` and where there is none, whatever build pip finds.

    Raises:
        SetupError: there is no such build; says what was tried.
    """
    if (venv.version_of("torch") or "").split("+")[0] == version:
        return
    print(f"PyTorch {version}, the CPU build", flush=True)
    offer = pip_offers(venv)
    if not any(each.split("+")[0] == version for each in offer.versions):
        raise SetupError(why_none(version, offer))
    if f"{version}+cpu" in offer.versions:
        venv.install(f"torch=={version}+cpu")
    elif sys.platform == "darwin":
        venv.install(f"torch=={version}")  # the only build for macOS, and without CUDA
    elif (refusal := install_by_uv(venv, version)) is None:
        venv.install(f"torch=={version}")  # is there; brings the packages that it needs
    elif any_build:
        print(f"No CPU build was found. TORCH=any: installing the default build, {SIZE}.", flush=True)
        venv.install(f"torch=={version}")
    else:
        raise SetupError(
            f"No CPU build of PyTorch {version} was found: pip is offered none, and uv could not fetch one ({refusal}). "
            "docs/install.md says how to bring one along. "
            f"To do with the default build instead, {SIZE}: make demo TORCH=any"
        )


def pip_offers(venv: Venv) -> Offer:
    """Ask pip, which looks at the indexes and folders of its configuration."""
    answer = venv.ask("-m", "pip", "--disable-pip-version-check", "--retries", "2", "index", "versions", "torch")
    listed = re.search(r"^Available versions: (.*)$", answer.stdout, re.MULTILINE)
    broken = re.search(r"after connection broken by (?:.*>: )?(.*): /", answer.stderr)
    return Offer(frozenset(listed[1].split(", ") if listed else ()), broken[1].strip("')") if broken else "")


def install_by_uv(venv: Venv, version: str) -> str | None:
    """Have uv install the CPU build from PyTorch's index. None if it did, else why it could not."""
    if venv.version_of("uv") is None and venv.ask(*venv.pip_words("uv")).returncode != 0:
        return "pip finds no uv"
    words = ["-m", "uv", "pip", "install", "--python", str(venv.python)]
    words += ["--no-deps", "--torch-backend=cpu", f"torch=={version}"]
    asked = venv.ask(*words, "--dry-run")
    if asked.returncode != 0:
        return str(["it did not say why", *re.findall(r"(?:error|cause): (.*)", asked.stderr)][-1])
    return None if venv.run(*words) else "see above"


def why_none(version: str, offer: Offer) -> str:
    """Why pip is offered no build at all of this version, and what mends it."""
    if offer.versions:
        here = f"Python {sys.version_info.major}.{sys.version_info.minor} on {platform.system()} {platform.machine()}"
        return f"There is no PyTorch {version} for {here}. It exists for 64-bit Linux and for macOS on Apple silicon."
    if offer.trouble:
        return (
            f"No package index can be reached ({offer.trouble}). "
            "Check the network and pip's settings (`pip config list`), and run make again."
        )
    return (
        f"pip finds no PyTorch {version} where it is configured to look, and the network was not the cause. "
        "`pip config list` shows where that is; PIP_INDEX_URL and PIP_FIND_LINKS change it."
    )
