"""`import cutlayer`, the user's face: cheap, without torch, and with every public name."""

import subprocess
import sys

import pytest

import cutlayer


def test_importing_it_imports_neither_torch_nor_numpy():
    code = "import cutlayer, sys; print(sorted({'torch', 'numpy', 'msgspec', 'typer'} & sys.modules.keys()))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


@pytest.mark.parametrize("name", cutlayer.__all__)
def test_every_public_name_is_there(name):
    assert getattr(cutlayer, name) is not None
    assert name in dir(cutlayer)


def test_a_name_that_it_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'cutlayer' has no attribute 'simulate_everything'"):
        _ = cutlayer.simulate_everything


def test_the_trial_that_it_reads_is_the_users(digits):
    assert cutlayer.read_trial(digits / "trial.toml").name == "demo"
    assert cutlayer.read_bundle(digits / "client.bundle").manifest.engine == "onnx"
