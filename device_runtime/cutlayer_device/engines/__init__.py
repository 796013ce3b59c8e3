"""Engines: what executes the graphs of a bundle."""

from collections.abc import Callable

from cutlayer.bundle import Bundle
from cutlayer.errors import UserError
from cutlayer_device.engines.base import Engine, EngineState

__all__ = ["ENGINES", "Engine", "EngineState", "load_engine"]


def _onnx(bundle: Bundle, threads: int) -> Engine:
    from cutlayer_device.engines.onnx import OnnxEngine

    return OnnxEngine(bundle, threads)


def _tflite(bundle: Bundle, threads: int) -> Engine:
    from cutlayer_device.engines.tflite import TfliteEngine

    return TfliteEngine(bundle, threads)


ENGINES: dict[str, Callable[[Bundle, int], Engine]] = {"onnx": _onnx, "tflite": _tflite}
"""The table of engines, by the name that a bundle's manifest gives. A board has the runtime of its own bundle only."""


def load_engine(bundle: Bundle, threads: int) -> Engine:
    """The engine that the bundle was exported for.

    Raises:
        UserError: this cutlayer does not have it, or the runtime that it needs is not installed.
    """
    name = bundle.manifest.engine
    if name not in ENGINES:
        raise UserError(f"the bundle needs the engine {name!r}, this cutlayer has {', '.join(ENGINES)}")
    return ENGINES[name](bundle, threads)
