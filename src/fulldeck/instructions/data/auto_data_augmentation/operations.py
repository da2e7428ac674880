"""The image operations that policies choose from, batched: each image has its own strength.

At strength 1 they do what the AugMix reference implementation does at level 10: rotate by 30 degrees,
shear by 0.3, translate by a third of the side, keep 1 bit a channel, invert everything (solarize), and
change brightness, contrast, colour or sharpness by 90 %. Strength 0 changes nothing, but for autocontrast
and equalize, which have no strength, and posterize, which keeps 4 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

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
    images: Tensor, operations: Sequence[Operation], choice: Tensor, strength: Tensor
) -> Tensor:
    """Apply `operations[choice[i]]` at `strength[i]` to image i; a negative choice leaves it as it is.

    `images` is N x C x H x W float in 0..1 and `strength` N values in 0..1, on the same device; `choice` is
    N int64 on the CPU, so that choosing never waits for an accelerator. The direction of what has two is
    drawn from torch's global generator. Returns a new tensor of the same shape, in 0..1.
    """
    direction = torch.randint(2, (len(images),)) * 2 - 1
    signed = strength * direction.to(images.device, non_blocking=True)
    changed = images.clone()
    kinds = [operations[index] if index >= 0 else None for index in choice.tolist()]
    warped = [row for row, kind in enumerate(kinds) if kind in _GEOMETRIC]
    if warped:
        rows = torch.tensor(warped).to(images.device, non_blocking=True)
        matrices = _affine([kinds[row] for row in warped], signed[rows], images.shape)
        _replace(changed, rows, _warp, matrices)
    for kind, operate in _POINTWISE.items():
        chosen = [row for row, name in enumerate(kinds) if name == kind]
        if chosen:
            rows = torch.tensor(chosen).to(images.device, non_blocking=True)
            _replace(changed, rows, operate, (signed if kind in _TWO_SIDED else strength)[rows])
    return changed


def _replace(
    images: Tensor, rows: Tensor, operate: Callable[[Tensor, Tensor], Tensor], values: Tensor
) -> None:
    images.index_copy_(0, rows, operate(images.index_select(0, rows), values).clamp_(0, 1).to(images.dtype))


def _affine(kinds: Sequence[str | None], signed: Tensor, shape: torch.Size) -> Tensor:
    """For each image the 2 x 3 matrix from places in the result to places in the source, both in -1..1."""
    chosen = torch.tensor([[kind == name for kind in kinds] for name in _GEOMETRIC])
    angle, shear_x, shear_y, translate_x, translate_y = signed * chosen.to(signed.device, non_blocking=True)
    angle = angle * math.radians(_ROTATION_DEGREES)
    aspect = shape[-2] / shape[-1]
    # Only one of the operations is not zero in each image, so that their matrices simply add up.
    right = (_SHEAR * shear_x - angle.sin()) * aspect
    down = (_SHEAR * shear_y + angle.sin()) / aspect
    shift = 2 * _TRANSLATION
    rows = [angle.cos(), right, shift * translate_x, down, angle.cos(), shift * translate_y]
    return torch.stack(rows, 1).view(-1, 2, 3)


def _warp(images: Tensor, matrices: Tensor) -> Tensor:
    # Not kornia's warp_affine, which takes twice as long for images of this size.
    grid = F.affine_grid(matrices.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


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
