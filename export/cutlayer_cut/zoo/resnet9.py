"""ResNet-9, a small residual network for 32x32 images that trains fast (David Page's DAWNBench entry, 2018)."""

from torch import Tensor, nn

__all__ = ["ResNet9"]


class Residual(nn.Module):
    """Two convolutions and a shortcut around both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block1 = _convolution(width, width)
        self.block2 = _convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        out: Tensor = x + self.block2(self.block1(x))
        return out


class ResNet9(nn.Module):
    """Eight convolutions and a linear layer, 6.6 million parameters.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.prep = _convolution(3, 64)
        self.layer1 = nn.Sequential(_convolution(64, 128), nn.MaxPool2d(2), Residual(128))
        self.layer2 = nn.Sequential(_convolution(128, 256), nn.MaxPool2d(2))
        self.layer3 = nn.Sequential(_convolution(256, 512), nn.MaxPool2d(2), Residual(512))
        self.head = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(512, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, 32, 32) to logits (B, classes)."""
        logits: Tensor = self.head(self.layer3(self.layer2(self.layer1(self.prep(x)))))
        return logits


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )
