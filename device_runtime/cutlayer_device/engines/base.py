"""What an engine must do."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cutlayer_core.codecs import NOTHING

__all__ = ["Engine", "EngineState"]


class EngineState(NamedTuple):
    """Copies of everything that is kept from step to step.

    Attributes:
        arrays: ``params.*``, ``buffers.*`` and the optimizer's ``state.*``.
        steps: number of optimizer steps taken.
        memory: the codec's, which belongs to the same step; engines neither have nor need it.
    """

    arrays: dict[str, NDArray[Any]]
    steps: int
    memory: Mapping[str, NDArray[Any]] = NOTHING


class Engine(Protocol):
    """The client-side model with its state. A protocol, since ONNX and TFLite runtimes share no base class."""

    runtime: str
    """Name and version of what executes the graphs."""

    def infer(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Map samples (B, *input) to smashed data (B, *smashed) in eval mode; changes nothing."""

    def forward(self, x: NDArray[Any], seed: int) -> NDArray[np.float32]:
        """The same in train mode: ``seed`` determines dropout; updates buffers such as running statistics.

        The result is the engine's own memory: read-only, and valid until the next call of ``forward``. ``backward`` may
        read ``x`` again, so it must not change until then.
        """

    def backward(self, gradient: NDArray[np.float32], learning_rate: float) -> None:
        """Take one optimizer step for the batch of the last ``forward``, from its cut gradient (B, *smashed)."""

    def weights(self) -> dict[str, NDArray[Any]]:
        """Parameters and buffers by their names in the model; copies."""

    def load(self, weights: dict[str, NDArray[Any]]) -> None:
        """Replace parameters and buffers; the optimizer's state stays, and a ``forward`` without its backward is void."""

    def state(self) -> EngineState:
        """Everything that `restore` needs to continue exactly from here."""

    def restore(self, state: EngineState) -> None:
        """Continue from ``state``, which came from an engine with the same bundle."""
