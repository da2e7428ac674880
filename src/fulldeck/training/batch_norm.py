"""Batch-norm's running statistics, for weights other than those that they were gathered under."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from fulldeck.training.batch import Tensors, call, to_device
from fulldeck.training.random_state import random_state, restore_random_state

if TYPE_CHECKING:
    from fulldeck.training.loop import TrainingLoop

STATISTICS = ("running_mean", "running_var")
"""What the buffers are called that a normalisation gathers in training and uses in evaluation."""
BATCHES = 100
"""Training batches that statistics are recalculated from."""


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """The buffers of `model` that are batch-norm's statistics, by name."""
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith(STATISTICS)}


@torch.no_grad()
def recalculate_statistics(model: nn.Module, inputs: Iterable[Tensors]) -> None:
    """Gather batch-norm's statistics anew from `inputs`, on the model's device, with the weights of now.

    Nothing else changes: no other buffer, no mode, no random state.
    """
    gathered = running_statistics(model)
    others = {n: (b, b.clone()) for n, b in model.named_buffers() if n not in gathered}
    training = [(module, module.training) for module in model.modules()]
    before = random_state()
    update_bn(inputs, _OneInput(model))
    restore_random_state(before)
    for module, mode in training:
        module.training = mode
    for buffer, value in others.values():
        buffer.copy_(value)


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Within it statistics may be recalculated; afterwards they are what they were."""
    kept = [(buffer, buffer.clone()) for buffer in running_statistics(model).values()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


def training_inputs(loop: TrainingLoop) -> Iterator[Tensors]:
    """The inputs of the first BATCHES batches of training, without the loader noticing."""
    keeps: Any = loop.loader if hasattr(loop.loader, "load_state_dict") else None
    place = keeps.state_dict() if keeps is not None else None
    for inputs, _ in islice(loop.loader.batches(0), BATCHES):
        yield to_device(inputs, loop.device)
    if keeps is not None:
        keeps.load_state_dict(place)


class _OneInput(nn.Module):
    """torch's update_bn calls the model with one positional input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensors) -> Any:
        return call(self.model, inputs)
