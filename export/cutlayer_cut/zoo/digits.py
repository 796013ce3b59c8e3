"""A small convolutional network for 8x8 grey images, scikit-learn's handwritten digits."""

from torch import Tensor, nn

__all__ = ["DigitsNet"]


class DigitsNet(nn.Module):
    """Two stages and a classifier; with the cut after ``stem``, 1,248 of its 14,794 parameters are on the board.

    Args:
        width: channels after the first stage.
        classes: number of classes.
    """

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(8 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 1, 8, 8) to logits (B, classes)."""
        logits: Tensor = self.head(self.body(self.stem(x)))
        return logits
