"""The form in which graphs are written, and what a writer returns: the same for every engine."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

from numpy.typing import NDArray

from cutlayer_core.engines import ENGINES
from cutlayer_core.errors import UserError

__all__ = [
    "FLOAT32_ONNX",
    "MAX_ERROR",
    "PRECISIONS",
    "TARGETS",
    "Arrays",
    "Form",
    "Graphs",
    "Run",
    "Written",
    "versions_of",
]

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
"""A graph as a function of its named inputs to its named outputs."""

TARGETS = ("xnnpack", "generic")
"""What graphs are made for.

* xnnpack: runtimes that delegate operations to XNNPACK, as those of 64-bit boards do. Convolution weights are stored in
  the files, and masks are products instead of comparisons, which XNNPACK does not have.
* generic: any runtime. Parameters are inputs of every graph.
"""


PRECISIONS = ("float32", "float16", "int8")
"""Precisions of graphs that are not trained; see `tflite.precision`."""


MAX_ERROR = 0.1
"""Root mean square of what fewer bits change, relative to that of the smashed data, up to which a bundle is written."""


class Form(NamedTuple):
    """How graphs are written.

    Attributes:
        engine: one of `cutlayer_core.engines.ENGINES`.
        target: one of `TARGETS`, for TFLite.
        precision: one of `PRECISIONS`.
        samples: representative inputs for int8, (N, *input).
        max_error: the greatest error that fewer bits may add; see `certificate.reduction.Reduction`.
        labels: the class of each sample, (N,); None if they are not known.
        least_gain: by how much Winograd's convolutions have to be faster, as estimated, to be used in training graphs;
            None for what suits the engine.
        arrangements: whether to write other arrangements of the training graphs too; see `arrangements`.
    """

    engine: str = "onnx"
    target: str = TARGETS[0]
    precision: str = PRECISIONS[0]
    samples: NDArray[Any] | None = None
    max_error: float = MAX_ERROR
    labels: NDArray[Any] | None = None
    least_gain: float | None = None
    arrangements: bool = False

    def check(self, *, trains: bool) -> None:
        """Raise `UserError` unless there is a way to write graphs in this form."""
        for name, allowed in (("engine", ENGINES), ("target", TARGETS), ("precision", PRECISIONS)):
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
"""The default form."""


class Graphs(NamedTuple):
    """Exported graphs as functions that the stock runtime computes; each picks its inputs from the values it is given.

    ``backward`` returns ``gradients.*`` as well. ``forward`` and ``backward`` are None for a frozen client.
    """

    inference: Run
    forward: Run | None = None
    backward: Run | None = None


class Written(NamedTuple):
    """The graphs of a bundle.

    Attributes:
        files: contents by graph name.
        graphs: the same graphs as functions, in float32; backward returns gradients too.
        opset: see `cutlayer_core.bundles.bundle.Manifest`.
        versions: versions of the packages that wrote and ran them.
        reduced: the file of the inference graph as a function, if it has fewer bits than ``graphs``.
        tables: parameters that backward takes the occurring rows of; see `graph.tables`.
    """

    files: Mapping[str, bytes]
    graphs: Graphs
    opset: int
    versions: Mapping[str, str]
    reduced: Run | None = None
    tables: tuple[str, ...] = ()


def versions_of(*packages: str) -> dict[str, str]:
    """The installed versions of packages."""
    return {name: version(name) for name in packages}
