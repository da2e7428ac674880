"""Which operations an image gets, and how strong: TrivialAugment, RandAugment, AugMix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fulldeck.instructions.data.auto_data_augmentation.operations import (
    AUGMIX_OPERATIONS,
    Operation,
    apply_operations,
)

Policy = Literal["none", "trivial", "rand", "augmix"]
_RAND_OPERATIONS = 2
_LONGEST_CHAIN = 3


def augment(
    images: Tensor,
    policy: Policy = "trivial",
    *,
    magnitude: float | Tensor = 0.3,
    operations: Sequence[Operation] = AUGMIX_OPERATIONS,
    chains: int = 3,
    flip: bool = False,
) -> Tensor:
    """Augment each image of a batch by itself; labels stay as they are.

    `images` is N x C x H x W, float in 0..1; the result too. `magnitude` (0..1) is the greatest strength
    of an operation (see `operations`). `flip` mirrors half of the images left to right. Randomness comes
    from torch's global generators.

    - `trivial`: one operation or none, strength uniform up to `magnitude` (Müller & Hutter 2021,
      arXiv:2103.10158).
    - `rand`: two operations at `magnitude` (Cubuk et al. 2019, arXiv:1909.13719).
    - `augmix`: `chains` chains of one to three operations, strength uniform up to `magnitude`, mixed with each
      other and with the image (Hendrycks et al. 2019, arXiv:1912.02781; its severity 3 is magnitude 0.3).
      Without the paper's consistency loss, which makes a step three times as long.
    """
    if flip:
        mirrored = (torch.rand(len(images)) < 0.5).to(images.device, non_blocking=True)
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
    if policy == "none" or not operations:
        return images
    if policy == "trivial":
        choice = torch.randint(-1, len(operations), (len(images),))
        return apply_operations(images, operations, choice, _uniform(images) * magnitude)
    if policy == "rand":
        for _ in range(_RAND_OPERATIONS):
            choice = torch.randint(len(operations), (len(images),))
            images = apply_operations(images, operations, choice, images.new_ones(len(images)) * magnitude)
        return images
    return _augmix(images, magnitude, operations, chains)


def _augmix(
    images: Tensor, magnitude: float | Tensor, operations: Sequence[Operation], chains: int
) -> Tensor:
    count = len(images)
    total = chains * count
    chained = images.repeat(chains, 1, 1, 1)
    lengths = torch.randint(1, _LONGEST_CHAIN + 1, (total,))
    for place in range(_LONGEST_CHAIN):
        choice = torch.randint(len(operations), (total,)).masked_fill(lengths <= place, -1)
        chained = apply_operations(chained, operations, choice, _uniform(chained) * magnitude)
    weights = torch.distributions.Dirichlet(torch.ones(chains)).sample((count,)).T.to(images)
    mixed = (chained.view(chains, *images.shape) * weights[..., None, None, None]).sum(0)
    return torch.lerp(images, mixed, _uniform(images).view(-1, 1, 1, 1))


def _uniform(images: Tensor) -> Tensor:
    return torch.rand(len(images), device=images.device, dtype=images.dtype)
