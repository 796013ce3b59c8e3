"""Models that others wrote are exported and certified: a few of each package; benchmarks/models.py has them all."""

import importlib.util
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "models.py"
spec = importlib.util.spec_from_file_location("models_of_others", SCRIPT)
models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(models)

WHEELS = {
    "torchvision": ("torchvision==0.28.0",),
    "timm": ("torchvision==0.28.0", "timm", "huggingface_hub"),
    "transformers": ("torchvision==0.28.0", "transformers", "huggingface_hub", "tokenizers"),
}
"""By package what is installed without what it needs: pip would replace torch."""
NEEDED = ("httpx", "httpx2", "tqdm", "pyyaml", "requests", "shellingham", "regex", "hf-xet", "filelock")
"""What these need; none of them needs torch."""
FEW = {
    ("resnet18", 0.15), ("squeezenet1_1", 0.5), ("mobilenet_v3_small", 0.5), ("shufflenet_v2_x0_5", 0.15),
    ("ghostnet_100", 0.15), ("lcnet_050", 0.5), ("mobilevit_xxs", 0.15), ("vit_tiny_patch16_224", 0.5),
    ("DistilBert", 0.5), ("GPT2", 0.5), ("Llama", 0.8), ("Albert", 0.15),
}  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that gives a folder with a package; it is installed when it is first asked for."""
    folders = {}

    def folder(package):
        if package not in folders:
            folders[package] = tmp_path_factory.mktemp(package)
            command = [sys.executable, "-m", "pip", "install", "-qq", "--target", folders[package]]
            for words in (["--no-deps", *WHEELS[package]], NEEDED):
                done = subprocess.run([*command, *words], check=False)
                if done.returncode and os.environ.get("CI") != "true":
                    pytest.skip(f"{package} cannot be installed here")
                assert done.returncode == 0
        return folders[package]

    return folder


CASES = [
    pytest.param(case, share, engine, id=f"{case.name} {share} {engine}")
    for case, share, engine in product(models.CASES, models.SHARES, models.ENGINES)
    if (case.name, share) in FEW
]


@pytest.mark.parametrize(("case", "share", "engine"), CASES)
def test_a_model_that_others_wrote_is_certified(case, share, engine, installed, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(installed(case.package)))
    assert models.run(case, share, engine)["reason"] == ""
