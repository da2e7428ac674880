"""What a model computes from each rank's own rows although its gradients are the mean over all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fulldeck.distributed.ranks import Ranks


def inexact(model: nn.Module) -> list[str]:
    """Why training `model` in several processes is not exactly the training of one, in words."""
    kinds = [type(module) for module in model.modules()]
    differ = {
        "batch-norm takes its statistics from each process's rows": any(
            issubclass(kind, _BatchNorm) and not issubclass(kind, nn.SyncBatchNorm) for kind in kinds
        ),
        "dropout draws other masks": any(issubclass(kind, _DropoutNd) for kind in kinds),
    }
    return [words for words, holds in differ.items() if holds]


@torch.no_grad()
def average(tensors: list[Tensor], ranks: Ranks) -> None:
    """Make each of `tensors` its mean over the ranks, in place. A collective."""
    if not tensors:
        return
    flat = ranks.mean(torch.cat([one.flatten() for one in tensors]))
    for tensor, mean in zip(tensors, torch.split(flat, [one.numel() for one in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
