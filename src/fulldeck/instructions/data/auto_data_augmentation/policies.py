"""Which operations an image gets, and how strong: TrivialAugment, RandAugment, AugMix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fulldeck.instructions.data.auto_data_augmentation.draws import Draws
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
    return augmented(
        images,
        Draws(len(images)),
        policy,
        magnitude=magnitude,
        operations=operations,
        chains=chains,
        flip=flip,
    )


def augmented(
    images: Tensor,
    draws: Draws,
    policy: Policy,
    *,
    magnitude: float | Tensor,
    operations: Sequence[Operation],
    chains: int,
    flip: bool = False,
) -> Tensor:
    """The same with what `draws` draws for the images."""
    if flip:
        rows = (draws.uniform() < 0.5).nonzero()[:, 0].to(images.device, non_blocking=True)
        images = images.index_copy(0, rows, images.index_select(0, rows).flip(-1))
    if policy == "none" or not operations or draws.total == 0:
        return images
    if policy == "augmix":
        return _augmix(images, draws, magnitude, operations, chains)
    if policy == "trivial":
        choice = draws.integers(-1, len(operations), 1)
        strength = _uniform(draws, images, 1) * magnitude
    else:
        choice = draws.integers(0, len(operations), _RAND_OPERATIONS)
        strength = images.new_ones(_RAND_OPERATIONS, len(images)) * magnitude
    return apply_operations(images, operations, choice, strength, draws.integers(0, 2, len(choice)))


def _augmix(
    images: Tensor, draws: Draws, magnitude: float | Tensor, operations: Sequence[Operation], chains: int
) -> Tensor:
    lengths = draws.integers(1, _LONGEST_CHAIN + 1, chains).flatten()
    choice = draws.integers(0, len(operations), _LONGEST_CHAIN, chains).flatten(1)
    choice[torch.arange(_LONGEST_CHAIN)[:, None] >= lengths] = -1
    strength = _uniform(draws, images, _LONGEST_CHAIN, chains).flatten(1) * magnitude
    direction = draws.integers(0, 2, _LONGEST_CHAIN, chains).flatten(1)
    chained = apply_operations(images.repeat(chains, 1, 1, 1), operations, choice, strength, direction)
    weights = draws.shares(chains).to(images)
    mixed = torch.einsum("knchw,kn->nchw", chained.view(chains, *images.shape), weights)
    return torch.lerp(images, mixed, _uniform(draws, images).view(-1, 1, 1, 1))


def _uniform(draws: Draws, images: Tensor, *leading: int) -> Tensor:
    return draws.uniform(*leading, device=images.device, dtype=images.dtype)
