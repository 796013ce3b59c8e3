"""VGG for 32x32 images (Simonyan & Zisserman, arXiv 1409.1556, with one linear layer as is usual for CIFAR)."""

from torch import Tensor, nn

__all__ = ["VGG11", "VGG13"]

_LAYERS = {
    11: (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"),
    13: (64, 64, "pool", 128, 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"),
}


class _VGG(nn.Module):
    def __init__(self, depth: int, batch_norm: bool, classes: int, width: float) -> None:
        super().__init__()
        self.features = nn.Sequential(*_layers(depth, batch_norm, width))
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(round(512 * width), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, 32, 32) to logits (B, classes)."""
        logits: Tensor = self.classifier(self.flatten(self.features(x)))
        return logits


class VGG11(_VGG):
    """Eight convolutions, 9.2 million parameters.

    Args:
        batch_norm: BatchNorm after each convolution, which then has no bias.
        classes: number of classes.
        width: channels of each layer, relative to the original.
    """

    def __init__(self, batch_norm: bool = False, classes: int = 10, width: float = 1.0) -> None:
        super().__init__(11, batch_norm, classes, width)


class VGG13(_VGG):
    """Ten convolutions, 9.4 million parameters; arguments as for `VGG11`."""

    def __init__(self, batch_norm: bool = False, classes: int = 10, width: float = 1.0) -> None:
        super().__init__(13, batch_norm, classes, width)


def _layers(depth: int, batch_norm: bool, width: float) -> list[nn.Module]:
    layers, channels = list[nn.Module](), 3
    for original in _LAYERS[depth]:
        if isinstance(original, str):
            layers.append(nn.MaxPool2d(2))
            continue
        wide = round(original * width)
        layers.append(nn.Conv2d(channels, wide, 3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(wide))
        layers.append(nn.ReLU(inplace=True))
        channels = wide
    return layers
