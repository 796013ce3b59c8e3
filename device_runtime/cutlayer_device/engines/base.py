"""What an engine must do."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.codecs import NOTHING

__all__ = ["Engine", "EngineState"]


class EngineState(NamedTuple):
    """Everything that is kept from step to step: copies.

    Attributes:
        arrays: ``params.*``, ``buffers.*`` and the optimizer's ``state.*``.
        steps: optimizer steps that were taken.
        memory: of the codec, which belongs to the same step; engines neither have nor want it.
    """

    arrays: dict[str, NDArray[Any]]
    steps: int
    memory: Mapping[str, NDArray[Any]] = NOTHING


class Engine(Protocol):
    """The client-side model with its state. A protocol, since ONNX and TFLite runtimes share no base class."""

    runtime: str
    """Name and version of what executes the graphs."""

    def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Samples (B, *input) to smashed data (B, *smashed) in eval mode; changes nothing."""

    def forward(self, x: NDArray[Any], seed: int) -> NDArray[np.float32]:
        """The same in train mode: ``seed`` decides what dropout draws; updates buffers such as running statistics.

        The result is the engine's own memory, to be read only, and until the next call of ``forward``. ``x`` may be read
        again by ``backward``, and is to stay as it is until then.
        """

    def backward(self, gradient: NDArray[np.float32], learning_rate: float) -> None:
        """One optimizer step for the batch of the last ``forward``, from its cut gradient (B, *smashed)."""

    def weights(self) -> dict[str, NDArray[Any]]:
        """Parameters and buffers by their names in the model; copies."""

    def load(self, weights: dict[str, NDArray[Any]]) -> None:
        """Replace parameters and buffers; the optimizer's state stays."""

    def state(self) -> EngineState:
        """Everything that `restore` needs to go on exactly as from here."""

    def restore(self, state: EngineState) -> None:
        """Go on from ``state``, which came from an engine with the same bundle."""
