"""LeNet-5 with ReLU and max pooling, for 28x28 grey images such as MNIST (after LeCun et al. 1998, Proc. IEEE 86)."""

from torch import Tensor, nn

__all__ = ["LeNet"]


class LeNet(nn.Module):
    """Two convolutions and three linear layers, 61,706 parameters.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 1, 28, 28) to logits (B, classes)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits
