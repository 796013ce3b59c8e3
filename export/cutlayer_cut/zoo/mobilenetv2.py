"""MobileNetV2 (Sandler et al., arXiv 1801.04381), with strides for 32x32 images or the original ones for 224x224."""

from typing import Literal

from torch import Tensor, nn

__all__ = ["MobileNetV2"]

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks, stride of the first block (table 2 of the paper)."""


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel, project back; add the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [_convolution(inputs, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            _convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        out: Tensor = x + self.conv(x) if self.residual else self.conv(x)
        return out


class MobileNetV2(nn.Module):
    """Seventeen inverted residuals, 2.2 million parameters with ten classes.

    Args:
        stem: "cifar" (the stem and the first stage of stride 2 keep the resolution) or "imagenet".
        classes: number of classes.
    """

    def __init__(self, stem: Literal["cifar", "imagenet"] = "cifar", classes: int = 10) -> None:
        super().__init__()
        small, channels = stem == "cifar", 32
        blocks: list[nn.Module] = [_convolution(3, channels, 3, 1 if small else 2)]
        for stage, (expansion, width, count, stride) in enumerate(_STAGES):
            for block in range(count):
                first = 1 if small and stage == 1 else stride
                blocks.append(InvertedResidual(channels, width, first if block == 0 else 1, expansion))
                channels = width
        self.features = nn.Sequential(*blocks, _convolution(channels, 1280, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to logits (B, classes)."""
        logits: Tensor = self.classifier(self.avgpool(self.features(x)))
        return logits


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, BatchNorm, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )
