"""The table of engines: each row has what it promises on the board and where bundles are exported."""

from importlib import import_module
from importlib.metadata import metadata

import pytest

from cutlayer_core.engines import ENGINES, check_engine
from cutlayer_core.errors import UserError


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_has_a_loader_and_a_writer(name):
    assert callable(import_module(f"cutlayer_device.engines.{name}").load)
    assert callable(import_module(f"cutlayer_export.{name}.writer").write)


@pytest.mark.parametrize("name", ENGINES)
def test_what_an_engine_needs_are_extras_of_cutlayer(name):
    extras = metadata("cutlayer").get_all("Provides-Extra")
    assert {ENGINES[name].device_extra, ENGINES[name].export_extra} <= set(extras)


def test_an_engine_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UserError, match=r"--engine: found the engine 'tensorrt', allowed: onnx, tflite"):
        check_engine("tensorrt", "--engine")
