"""Mix images and their labels with those of another image of the batch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Mixing = Literal["none", "mixup", "cutmix"]


def mix(
    images: Tensor, targets: Tensor, classes: int, kind: Mixing = "mixup", *, alpha: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Mix each image of a batch with another one; one share, drawn from Beta(alpha, alpha), for all.

    `images` is N x C x H x W; `targets` are N class indices or N x `classes` probabilities. Returns the
    images and N x `classes` probabilities.

    - `mixup` blends the whole images (Zhang et al. 2017, arXiv:1710.09412; alpha 0.2 to 0.4).
    - `cutmix` pastes a rectangle (Yun et al. 2019, arXiv:1905.04899; alpha 1).
    """
    probabilities = targets if targets.ndim == 2 else F.one_hot(targets, classes).to(images.dtype)
    if kind == "none":
        return images, probabilities
    kept = float(torch.distributions.Beta(alpha, alpha).sample())
    partner = torch.randperm(len(images)).to(images.device, non_blocking=True)
    if kind == "mixup":
        images = torch.lerp(images[partner], images, kept)
    else:
        images, kept = _paste(images, partner, kept)
    return images, torch.lerp(probabilities[partner], probabilities, kept)


def _paste(images: Tensor, partner: Tensor, kept: float) -> tuple[Tensor, float]:
    height, width = images.shape[-2:]
    row, column = int(torch.randint(height, ())), int(torch.randint(width, ()))
    half = math.sqrt(1 - kept) / 2
    top, bottom = max(0, round(row - half * height)), min(height, round(row + half * height))
    left, right = max(0, round(column - half * width)), min(width, round(column + half * width))
    pasted = images.clone()
    pasted[..., top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    # The rectangle may have been cut off at the border: the labels follow the true area.
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)
