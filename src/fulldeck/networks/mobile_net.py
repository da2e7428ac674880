"""A small mobile net for images: inverted residuals with squeeze-and-excitation (Howard et al. 2019, arXiv:1905.02244).

It has the parts of MobileNetV3 in the sizes that small images need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fulldeck.networks.residual_net import Standardising, places

SQUEEZE = 4
"""How many times fewer channels a squeeze has."""


class MobileNet(Standardising):
    """N x `channels` x H x W images in 0..1 to N x `outputs` logits (or values, for regression).

    Each entry of `widths` is a stage of `blocks` inverted residuals with that many channels, `expansion` times as
    many inside; every stage but the first halves the resolution, looks 5 pixels wide instead of 3, squeezes, and
    has hard-swish in place of ReLU. `features` is the width before the last layer. `stem_stride` 2 halves the
    resolution before the first stage, for larger images. `mean` and `std`, per channel, standardise the input
    inside the model. The image's size is free.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        widths: Sequence[int] = (16, 24, 48),
        blocks: int = 2,
        expansion: int = 3,
        features: int = 128,
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
            "expansion": expansion,
            "features": features,
            "stem_stride": stem_stride,
            "mean": list(mean),
            "std": list(std),
        }
        self.stem = _convolution(channels, widths[0], 3, nn.Hardswish(), stride=stem_stride)
        self.blocks = nn.Sequential(
            *(
                InvertedResidual(before, width, before * expansion, stride, late=stage > 0)
                for stage, before, width, stride in places(widths, blocks)
            )
        )
        self.last = _convolution(widths[-1], features, 1, nn.Hardswish())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(features, outputs)

    def forward(self, input: Tensor) -> Tensor:
        """N x `outputs`."""
        x = self.last(self.blocks(self.stem(self.standardised(input))))
        logits: Tensor = self.head(self.pool(x).flatten(1))
        return logits


class InvertedResidual(nn.Module):
    """Widen by a 1 x 1 convolution, look around in each channel by itself, narrow again; and the shortcut."""

    def __init__(self, before: int, width: int, inside: int, stride: int, *, late: bool) -> None:
        super().__init__()
        activation = nn.Hardswish() if late else nn.ReLU()
        self.expand = _convolution(before, inside, 1, activation)
        self.depthwise = _convolution(
            inside, inside, 5 if late else 3, activation, stride=stride, groups=inside
        )
        self.excite: nn.Module = Excitation(inside) if late else nn.Identity()
        self.project = _convolution(inside, width, 1, nn.Identity())
        self.shortcut = stride == 1 and before == width

    def forward(self, x: Tensor) -> Tensor:
        """N x `before` x H x W to N x `width` x H/stride x W/stride."""
        y: Tensor = self.project(self.excite(self.depthwise(self.expand(x))))
        return y + x if self.shortcut else y


class Excitation(nn.Module):
    """Each channel times a share between 0 and 1, found from the means of all (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        squeezed = max(8, width // SQUEEZE)
        self.shares = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, width, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """N x `width` x H x W."""
        result: Tensor = x * self.shares(x)
        return result


def _convolution(
    before: int, width: int, kernel: int, activation: nn.Module, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, width, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        activation,
    )
