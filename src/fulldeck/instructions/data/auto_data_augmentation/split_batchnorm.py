"""Normalise adversarial samples by statistics of their own (AdvProp: Xie et al. 2019, arXiv:1911.09665)."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fulldeck.instructions.data.auto_data_augmentation.attack import batch_norms


class SeparateStatistics:
    """Send the first `adversarial` of `total` rows through auxiliary batch-normalisation layers.

    `auxiliary` holds a copy of each batch-normalisation layer of `model`; its parameters want an optimizer.
    The model's own modules, parameters and keys stay what they are. Call `undo` before the model is handed
    on.
    """

    def __init__(self, model: nn.Module) -> None:
        self.main = batch_norms(model)
        # They are trained also where the model is frozen around adapters.
        self.auxiliary = nn.ModuleList(copy.deepcopy(norm) for norm in self.main).requires_grad_(True)
        self.adversarial = 0
        self.total = 0
        for norm, other in zip(self.main, self.auxiliary, strict=True):
            norm.forward = partial(_routed, self, norm, other)  # type: ignore[method-assign]

    def route(self, adversarial: int, total: int) -> None:
        """Say how the rows of the next training passes are made up."""
        self.adversarial, self.total = adversarial, total

    def undo(self) -> None:
        """Give the model its own forward passes back."""
        for norm in self.main:
            del norm.forward


def _routed(routes: SeparateStatistics, main: _BatchNorm, other: nn.Module, x: Tensor) -> Tensor:
    own = type(main).forward
    if not main.training or routes.adversarial == 0 or len(x) != routes.total:
        return own(main, x)
    moved: Tensor = other(x[: routes.adversarial])
    if routes.adversarial == len(x):
        return moved
    return torch.cat([moved, own(main, x[routes.adversarial :])])
