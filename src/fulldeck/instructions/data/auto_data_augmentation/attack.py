"""Adversarial samples: images moved, within a small bound, to where the model's loss is higher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_FGSM_STEP = 1.25
_PGD_REACH = 2.5


def adversarial(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    epsilon: float,
    steps: int = 1,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
) -> Tensor:
    """Images on which `model` does worse, each value within `epsilon` of the original and in 0..1.

    One step is FGSM from a random start with a step of 1.25 epsilon (Wong et al. 2020, arXiv:2001.03994),
    more are PGD with steps of 2.5 epsilon / `steps` (Madry et al. 2017, arXiv:1706.06083). The model is
    used in its present mode; its running statistics and its parameters' `.grad` stay as they are.
    """
    with statistics_kept(model):
        return ascend(images, lambda some: loss(model(some), targets), epsilon=epsilon, steps=steps)


def ascend(images: Tensor, loss_of: Callable[[Tensor], Tensor], *, epsilon: float, steps: int) -> Tensor:
    """Climb `loss_of(images)` by signed gradient steps from a random start inside the bound."""
    low, high = (images - epsilon).clamp_(min=0), (images + epsilon).clamp_(max=1)
    size = epsilon * (_FGSM_STEP if steps == 1 else _PGD_REACH / steps)
    moved = torch.lerp(low, high, torch.rand_like(images))
    with torch.enable_grad():
        for _ in range(steps):
            moved.requires_grad_()
            (slope,) = torch.autograd.grad(loss_of(moved), moved)
            moved = moved.detach() + size * slope.nan_to_num().sign()
            moved = torch.minimum(torch.maximum(moved, low), high)
    return moved


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """All batch-normalisation layers of `model`."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def statistics_kept(*models: nn.Module) -> Iterator[None]:
    """Normalise by the batch without moving running statistics, or any other buffer that a forward pass changes.

    Such as those of observers, and of batch norms in a model that has become a graph of operators.
    """
    norms = [norm for model in models for norm in batch_norms(model)]
    told = {id(buffer) for norm in norms for buffer in norm.buffers()}
    others = [buffer for model in models for buffer in model.buffers() if id(buffer) not in told]
    tracked = [norm.track_running_stats for norm in norms]
    values = [buffer.detach().clone() for buffer in others]
    try:
        for norm in norms:
            # In evaluation mode the running statistics are what is normalised by.
            norm.track_running_stats = norm.track_running_stats and not norm.training
        yield
    finally:
        for norm, before in zip(norms, tracked, strict=True):
            norm.track_running_stats = before
        with torch.no_grad():
            for buffer, value in zip(others, values, strict=True):
                buffer.copy_(value)
