"""Values of ONNX graphs under construction."""

from typing import Any

import numpy as np
import onnx_ir
from onnxscript import opset18

__all__ = ["INT64", "integers", "sizes"]

INT64 = 7
"""The element type, by ONNX's number."""


def integers(values: Any) -> Any:
    """A constant int64 tensor."""
    op: Any = opset18  # its type hints do not know numpy arrays
    return op.Constant(value=onnx_ir.tensor(np.asarray(values, np.int64)))


def sizes(value: Any) -> list[int]:
    """The sizes of a tensor; -1 for the batch, which alone is unknown."""
    return [size if isinstance(size, int) else -1 for size in value.shape]
