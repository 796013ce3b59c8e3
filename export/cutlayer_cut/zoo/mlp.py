"""A multilayer perceptron, the simplest model to cut."""

import math

from torch import Tensor, nn

__all__ = ["Mlp"]


class Mlp(nn.Module):
    """Linear layers with ReLU and GELU between them; 269,322 parameters by default.

    Args:
        inputs: shape or size of one sample, which is flattened.
        width: features of both hidden layers.
        classes: number of classes.
    """

    def __init__(self, inputs: int | tuple[int, ...] = 784, width: int = 256, classes: int = 10) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(inputs if isinstance(inputs, int) else math.prod(inputs), width)
        self.act1 = nn.ReLU()
        self.fc2 = nn.Linear(width, width)
        self.act2 = nn.GELU()
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Samples (B, *inputs) to logits (B, classes)."""
        hidden = self.act1(self.fc1(self.flatten(x)))
        logits: Tensor = self.head(self.act2(self.fc2(hidden)))
        return logits
