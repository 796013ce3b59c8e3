"""Fixtures for everything that takes seconds to make."""

import atexit
import os
import shutil
import sys
import tempfile
from functools import cache

import pytest
from hypothesis import HealthCheck, settings

from needs import need, pytest_runtest_setup, pytest_terminal_summary

__all__ = ["pytest_runtest_setup", "pytest_terminal_summary"]

# A test in each core: threads of several that spin for the same cores take a third longer.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What tests export is kept apart from what this machine's user does.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cutlayer-cache-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
# A busy machine is slow, which says nothing of what is tested.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def onnxscript_parsed_once():
    """For each export torch asks onnxscript for its functions, which it parses anew: half of the time of a small one."""
    registration = sys.modules.get("torch.onnx._internal.exporter._registration")
    apis = getattr(registration, "onnxscript_apis", None)
    if apis is not None and not hasattr(apis.get_torchlib_ops, "cache_info"):
        apis.get_torchlib_ops = cache(apis.get_torchlib_ops)


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    """A real mosquitto on a free port."""
    from cutlayer.lab.broker import start_broker

    need("mosquitto")
    with start_broker(tmp_path_factory.mktemp("broker"), "mosquitto") as running:
        yield running


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A folder with the demo's trial file and data, and the bundle exported from it."""
    from cutlayer.demo import prepare
    from cutlayer_core.trial.trial import read_trial
    from cutlayer_export import export_bundle

    folder = tmp_path_factory.mktemp("digits")
    prepare(folder)
    export_bundle(read_trial(folder / "trial.toml").recipe, folder / "client.bundle")
    return folder


@pytest.fixture(scope="session")
def bundles(digits):
    """The demo's client as a bundle of each engine, and of each form that it has, by name."""
    from cutlayer_core.trial.trial import read_trial
    from cutlayer_export import export_bundle
    from cutlayer_export.graph.form import Form

    recipe = read_trial(digits / "trial.toml").recipe
    for target in ("xnnpack", "generic"):
        export_bundle(recipe, digits / f"{target}.bundle", form=Form("tflite", target))
    return {"onnx": digits / "client.bundle"} | {name: digits / f"{name}.bundle" for name in ("xnnpack", "generic")}


@pytest.fixture
def assignment():
    from cutlayer_core.codecs import Codecs
    from cutlayer_core.wire.messages import Assignment, Augmentation

    return Assignment(
        client=0,
        seed=1,
        batch_size=4,
        learning_rate=0.1,
        codecs=Codecs(),
        augmentation=Augmentation(),
        patience_s=1.0,
    )
