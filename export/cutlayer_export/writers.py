"""From traced graphs to the graphs of a bundle: a writer for each engine."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

from numpy.typing import NDArray

from cutlayer.errors import UserError
from cutlayer_export.certificate import Graphs
from cutlayer_export.training_graph import Graph

__all__ = ["FLOAT32_ONNX", "PRECISIONS", "TARGETS", "WRITERS", "Form", "Written"]

TARGETS = ("xnnpack", "generic")
"""What graphs are made for.

* xnnpack: runtimes that hand operations to XNNPACK, as those of 64-bit boards do. Weights of convolutions stand in the
  files, and masks are products instead of comparisons, which XNNPACK does not have.
* generic: any runtime. Parameters are inputs of every graph.
"""


PRECISIONS = ("float32", "float16", "int8")
"""Of what is not trained; see `tflite.precision`."""


class Form(NamedTuple):
    """How graphs are written.

    Attributes:
        engine: of `WRITERS`.
        target: of `TARGETS`, for TFLite.
        precision: of `PRECISIONS`.
        samples: representative ones for int8, (N, *input).
    """

    engine: str = "onnx"
    target: str = TARGETS[0]
    precision: str = PRECISIONS[0]
    samples: NDArray[Any] | None = None

    def check(self, *, trains: bool) -> None:
        """Raise `UserError` unless there is a way to write graphs in this form."""
        for name, allowed in (("engine", WRITERS), ("target", TARGETS), ("precision", PRECISIONS)):
            if (found := getattr(self, name)) not in allowed:
                raise UserError(f"--{name}: found {found!r}, allowed: {', '.join(allowed)}")
        if self.precision == "float32":
            return
        if self.engine != "tflite":
            raise UserError(f"--precision {self.precision}: allowed with --engine tflite")
        if trains:
            raise UserError(
                f"--precision {self.precision}: a board trains in float32; allowed with --freeze or --cut none"
            )
        if self.precision == "int8" and (self.samples is None or self.samples.dtype != "float32"):
            raise UserError("--precision int8: needs --calibration, a file or folder of representative float32 inputs")


FLOAT32_ONNX = Form()
"""What is written if nothing else is wanted."""


class Written(NamedTuple):
    """The graphs of a bundle.

    Attributes:
        files: by graph name.
        graphs: the same as functions, in float32; that of backward gives gradients too.
        opset: see `cutlayer.bundle.Manifest`.
        versions: of the packages that wrote and ran them.
        precision_error: see `cutlayer.bundle.Certificate`.
    """

    files: Mapping[str, bytes]
    graphs: Graphs
    opset: int
    versions: Mapping[str, str]
    precision_error: float = 0.0


def _onnx(inference: Graph, training: Graph | None, form: Form) -> Written:
    from cutlayer_export.onnx_writer import OPSET, onnx_files

    files, graphs = onnx_files(inference, training)
    return Written(files, graphs, OPSET, _versions("onnx", "onnxruntime"))


def _tflite(inference: Graph, training: Graph | None, form: Form) -> Written:
    from cutlayer_export.tflite.file import SCHEMA_VERSION
    from cutlayer_export.tflite.writer import in_precision, tflite_files

    delegated = form.target == "xnnpack"
    files, graphs = tflite_files(inference, training, delegated)
    versions, error = _versions("flatbuffers", "ai-edge-litert"), 0.0
    if form.precision != "float32":
        files, error = in_precision(inference, delegated, form.precision, form.samples)
    if form.precision == "int8":
        versions |= _versions("ai-edge-quantizer")
    return Written(files, graphs, SCHEMA_VERSION, versions, error)


def _versions(*packages: str) -> dict[str, str]:
    return {name: version(name) for name in packages}


WRITERS: dict[str, Callable[[Graph, Graph | None, Form], Written]] = {"onnx": _onnx, "tflite": _tflite}
"""By the name of the engine. A writer's packages are imported when it is called."""
