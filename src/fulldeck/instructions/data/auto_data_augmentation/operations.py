"""The image operations that policies choose from, batched: each image has its own strength.

At strength 1 they do what the AugMix reference implementation does at level 10: rotate by 30 degrees,
shear by 0.3, translate by a third of the side, keep 1 bit a channel, invert everything (solarize), and
change brightness, contrast, colour or sharpness by 90 %. Strength 0 changes nothing, but for autocontrast
and equalize, which have no strength, and posterize, which keeps 4 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Operation = Literal[
    "autocontrast",
    "equalize",
    "posterize",
    "solarize",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "brightness",
    "contrast",
    "color",
    "sharpness",
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
AUGMIX_OPERATIONS: tuple[Operation, ...] = OPERATIONS[:9]
"""Those of AugMix: nothing that is itself a corruption to be robust against."""

_GEOMETRIC = OPERATIONS[4:9]
_ROTATION_DEGREES = 30.0
_SHEAR = 0.3
_TRANSLATION = 1 / 3


def apply_operations(
    images: Tensor, operations: Sequence[Operation], choice: Tensor, strength: Tensor, direction: Tensor
) -> Tensor:
    """Apply to image i `operations[choice[s, i]]` at `strength[s, i]`, for each of S steps.

    `images` is N x C x H x W float in 0..1 and `strength` S x N in 0..1, on the same device; `choice` is
    S x N int64 on the CPU, so that choosing never waits for an accelerator; a negative choice does nothing.
    All of an image's geometric operations come first, as one warp, which fills with black. Operations that have
    two directions go the one way where `direction`, S x N on the CPU, is 0, and the other where it is 1.
    Returns a new tensor of the same shape, in 0..1.
    """
    signed = strength * (2 * direction - 1).to(images.device, non_blocking=True)
    changed = _warp(images, operations, choice, signed)
    for index, name in enumerate(operations):
        operate = _POINTWISE.get(name)
        if operate is None:
            continue
        for step, chosen in enumerate(choice == index):
            if chosen.any():
                rows = chosen.nonzero()[:, 0].to(images.device, non_blocking=True)
                values = (signed if name in _TWO_SIDED else strength)[step, rows]
                result = operate(changed.index_select(0, rows), values).clamp_(0, 1).to(images.dtype)
                changed.index_copy_(0, rows, result)
    return changed


def _warp(images: Tensor, operations: Sequence[Operation], choice: Tensor, signed: Tensor) -> Tensor:
    from kornia.geometry.transform import get_affine_matrix2d, warp_affine

    # A choice of -1 takes the last entry, which is no geometric operation.
    kinds = torch.tensor([_GEOMETRIC.index(name) if name in _GEOMETRIC else -1 for name in operations] + [-1])
    kind = kinds[choice]
    moved = (kind >= 0).any(0)
    if not moved.any():
        return images.clone()
    rows = moved.nonzero()[:, 0].to(images.device, non_blocking=True)
    masks = torch.stack([kind == number for number in range(len(_GEOMETRIC))])[:, :, moved]
    amounts = signed[:, rows] * masks.to(images.device, non_blocking=True)
    rotate, shear_x, shear_y, translate_x, translate_y = amounts.float().flatten(1)
    height, width = images.shape[-2:]
    matrices = get_affine_matrix2d(
        _TRANSLATION * torch.stack([translate_x * width, translate_y * height], 1),
        torch.tensor([(width - 1) / 2, (height - 1) / 2]).to(rotate).expand(len(rotate), 2),
        rotate.new_ones(len(rotate), 2),
        _ROTATION_DEGREES * rotate,
        torch.atan(_SHEAR * shear_x),
        torch.atan(_SHEAR * shear_y),
    ).view(len(choice), -1, 3, 3)
    matrix = matrices[0]
    for following in matrices[1:]:
        matrix = following @ matrix
    warped = warp_affine(images.index_select(0, rows), matrix[:, :2].to(images.dtype), (height, width))
    return images.index_copy(0, rows, warped.clamp_(0, 1))


def _autocontrast(images: Tensor, strength: Tensor) -> Tensor:
    from kornia.enhance import normalize_min_max

    stretched: Tensor = normalize_min_max(images)
    return stretched


def _equalize(images: Tensor, strength: Tensor) -> Tensor:
    from kornia.enhance import equalize

    equalized: Tensor = equalize(images)
    return equalized


def _posterize(images: Tensor, strength: Tensor) -> Tensor:
    from kornia.enhance import posterize

    posterized: Tensor = posterize(images, (4 - 4 * strength).ceil().clamp(min=1).int())
    return posterized


def _solarize(images: Tensor, strength: Tensor) -> Tensor:
    from kornia.enhance import solarize

    solarized: Tensor = solarize(images, 1 - strength)
    return solarized


def _brightness(images: Tensor, strength: Tensor) -> Tensor:
    return images * _factor(strength)


def _contrast(images: Tensor, strength: Tensor) -> Tensor:
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(middle, images, _factor(strength))


def _color(images: Tensor, strength: Tensor) -> Tensor:
    return torch.lerp(images.mean(dim=1, keepdim=True), images, _factor(strength))


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    from kornia.enhance import sharpness

    sharpened: Tensor = sharpness(images, 1 + 0.9 * strength)
    return sharpened


def _factor(strength: Tensor) -> Tensor:
    return (1 + 0.9 * strength).view(-1, 1, 1, 1)


_POINTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "posterize": _posterize,
    "solarize": _solarize,
    "brightness": _brightness,
    "contrast": _contrast,
    "color": _color,
    "sharpness": _sharpness,
}
_TWO_SIDED = frozenset({"brightness", "contrast", "color", "sharpness"})
