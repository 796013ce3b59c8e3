"""From traced graphs to the graphs of a bundle: a writer for each engine."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import NamedTuple

from cutlayer_export.certificate import Graphs
from cutlayer_export.training_graph import Graph

__all__ = ["TARGETS", "WRITERS", "Written"]

TARGETS = ("xnnpack", "generic")
"""What graphs are made for.

* xnnpack: runtimes that hand operations to XNNPACK, as those of 64-bit boards do. Weights of convolutions stand in the
  files, and masks are products instead of comparisons, which XNNPACK does not have.
* generic: any runtime. Parameters are inputs of every graph.
"""


class Written(NamedTuple):
    """The graphs of a bundle.

    Attributes:
        files: by graph name.
        graphs: the same as functions; that of backward gives gradients too.
        opset: see `cutlayer.bundle.Manifest`.
        versions: of the packages that wrote and ran them.
    """

    files: Mapping[str, bytes]
    graphs: Graphs
    opset: int
    versions: Mapping[str, str]


def _onnx(inference: Graph, training: Graph | None, target: str) -> Written:
    from cutlayer_export.onnx_writer import OPSET, onnx_files

    files, graphs = onnx_files(inference, training)
    return Written(files, graphs, OPSET, _versions("onnx", "onnxruntime"))


def _tflite(inference: Graph, training: Graph | None, target: str) -> Written:
    from cutlayer_export.tflite.file import SCHEMA_VERSION
    from cutlayer_export.tflite.writer import tflite_files

    files, graphs = tflite_files(inference, training, delegated=target == "xnnpack")
    return Written(files, graphs, SCHEMA_VERSION, _versions("flatbuffers", "ai-edge-litert"))


def _versions(*packages: str) -> dict[str, str]:
    return {name: version(name) for name in packages}


WRITERS: dict[str, Callable[[Graph, Graph | None, str], Written]] = {"onnx": _onnx, "tflite": _tflite}
"""By the name of the engine. A writer's packages are imported when it is called."""
