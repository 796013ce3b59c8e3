"""Engines: what executes the graphs of a bundle."""

from collections.abc import Callable

from cutlayer.bundle import Bundle
from cutlayer.errors import UserError
from cutlayer_device.engines.base import Engine, EngineState
from cutlayer_device.engines.onnx import OnnxEngine

__all__ = ["ENGINES", "Engine", "EngineState", "OnnxEngine", "load_engine"]

ENGINES: dict[str, Callable[[Bundle, int], Engine]] = {"onnx": OnnxEngine}
"""The table of engines, by the name that a bundle's manifest gives."""


def load_engine(bundle: Bundle, threads: int) -> Engine:
    """The engine that the bundle was exported for. Raises `UserError` if this cutlayer does not have it."""
    name = bundle.manifest.engine
    if name not in ENGINES:
        raise UserError(f"the bundle needs the engine {name!r}, this cutlayer has {', '.join(ENGINES)}")
    return ENGINES[name](bundle, threads)
