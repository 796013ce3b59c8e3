"""Engines: what executes the graphs of a bundle. A board has only the runtime of its own bundle."""

from importlib import import_module

from cutlayer_core.bundles.bundle import Bundle
from cutlayer_core.engines import check_engine
from cutlayer_device.engines.base import Engine, EngineState

__all__ = ["Engine", "EngineState", "load_engine"]


def load_engine(bundle: Bundle, threads: int) -> Engine:
    """The engine that the bundle was exported for.

    Raises:
        UserError: this cutlayer does not have it, or the runtime that it needs is not installed.
    """
    name = check_engine(bundle.manifest.engine, "the bundle's manifest.json")
    engine: Engine = import_module(f"cutlayer_device.engines.{name}").load(bundle, threads)
    return engine
