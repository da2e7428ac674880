"""A plain PyTorch loop in float32, with nothing around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from fulldeck.training.batch import call

if TYPE_CHECKING:
    from fulldeck.training.loop import TrainingLoop

REQUIREMENT = MODULE = "torch"


def steps(loop: TrainingLoop) -> Iterator[float]:
    """Train `loop`'s model on its batches; yield the loss of each step."""
    (optimizer,) = loop.build_optimizers(loop.parameters())
    loop.model.train()
    epoch = 0
    while True:
        for inputs, targets in loop.loader.batches(epoch, 0):
            optimizer.zero_grad()
            loss = loop.loss(call(loop.model, inputs), targets)
            torch.autograd.backward(loss)
            optimizer.step()
            yield loss.item()
        epoch += 1
