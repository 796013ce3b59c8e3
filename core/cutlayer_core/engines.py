"""The engines that run a bundle on a board: one table, read by device, export, flash and the command line.

An engine NAME has a row here, a module ``cutlayer_device.engines.NAME`` with a function ``load``, and a package
``cutlayer_export.NAME`` whose module ``writer`` has a function ``write``.
"""

from typing import NamedTuple

from cutlayer_core.errors import UserError

__all__ = ["ENGINES", "EngineNeeds", "check_engine"]


class EngineNeeds(NamedTuple):
    """What an engine needs to be installed.

    Attributes:
        device_extra: cutlayer's extra for the board.
        runtimes: modules, one of which the board needs.
        export_extra: cutlayer's extra for exporting bundles.
        writes_with: modules, all of which an export needs.
    """

    device_extra: str
    runtimes: tuple[str, ...]
    export_extra: str
    writes_with: tuple[str, ...]


ENGINES = {
    "onnx": EngineNeeds("device", ("onnxruntime",), "export", ("onnx", "onnxscript", "onnxruntime")),
    "tflite": EngineNeeds(
        "device-tflite", ("ai_edge_litert", "tflite_runtime"), "tflite", ("flatbuffers", "ai_edge_litert")
    ),
}


def check_engine(name: str, where: str) -> str:
    """Return ``name``. Raises `UserError`, which says ``where`` it was found, if there is no such engine."""
    if name not in ENGINES:
        raise UserError(f"{where}: found the engine {name!r}, allowed: {', '.join(ENGINES)}")
    return name
