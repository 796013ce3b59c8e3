"""What an engine must do."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Engine"]


class Engine(Protocol):
    """The client-side model with its state. A protocol, since ONNX and TFLite runtimes share no base class."""

    def forward(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples (B, *input) to smashed data (B, *smashed); updates buffers such as running statistics."""

    def backward(self, x: NDArray[np.float32], gradient: NDArray[np.float32], learning_rate: float) -> None:
        """One optimizer step, from the same ``x`` and the cut gradient (B, *smashed)."""

    def weights(self) -> dict[str, NDArray[Any]]:
        """Parameters and buffers by their names in the model; copies."""

    def load(self, weights: dict[str, NDArray[Any]]) -> None:
        """Replace parameters and buffers; the optimizer's state stays."""
