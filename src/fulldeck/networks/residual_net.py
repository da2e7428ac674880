"""A small residual convolutional net for images (He et al. 2015, arXiv:1512.03385)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Standardising(nn.Module):
    """Holds `mean` and `std`, per channel of its images, so that they travel with every export."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def standardised(self, images: Tensor) -> Tensor:
        """N x C x H x W, with mean 0 and deviation 1 over such images as the figures were taken from."""
        return (images - self.mean) / self.std


class ResidualNet(Standardising):
    """N x `channels` x H x W images in 0..1 to N x `outputs` logits (or values, for regression).

    Each entry of `widths` is a stage of `blocks` residual blocks with that many channels; every stage but
    the first halves the resolution. `stem_stride` 2 halves it before the first stage, for larger images.
    `mean` and `std`, per channel, standardise the input inside the model. The image's size is free.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        widths: Sequence[int] = (32, 64, 128),
        blocks: int = 1,
        stem_stride: int = 1,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__(mean, std)
        self.arguments: dict[str, Any] = {
            "channels": channels,
            "outputs": outputs,
            "widths": list(widths),
            "blocks": blocks,
            "stem_stride": stem_stride,
            "mean": list(mean),
            "std": list(std),
        }
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, stem_stride, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(before, width, stride=stride)
                for _, before, width, stride in places(widths, blocks)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, input: Tensor) -> Tensor:
        """N x `outputs`."""
        x = self.stem(self.standardised(input))
        logits: Tensor = self.head(self.pool(self.blocks(x)).flatten(1))
        return logits


def places(widths: Sequence[int], blocks: int) -> Iterator[tuple[int, int, int, int]]:
    """Stage, channels before, channels and stride of each block: the first of every later stage halves the image."""
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            yield stage, before, width, 2 if stage and not block else 1
            before = width


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, before: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """N x `before` x H x W to N x `width` x H/stride x W/stride."""
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y)) + self.shortcut(x)
        result: Tensor = self.relu2(y)
        return result
