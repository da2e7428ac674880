"""Hugging Face Accelerate in bfloat16: the usual loop around `Accelerator(mixed_precision="bf16")`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fulldeck.training.batch import call

if TYPE_CHECKING:
    from fulldeck.training.loop import TrainingLoop

REQUIREMENT = MODULE = "accelerate"


def steps(loop: TrainingLoop) -> Iterator[float]:
    """Train `loop`'s model on its batches; yield the loss of each step."""
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision="bf16", cpu=loop.device.type == "cpu")
    (optimizer,) = loop.build_optimizers(loop.parameters())
    model, optimizer = accelerator.prepare(loop.model, optimizer)
    model.train()
    epoch = 0
    while True:
        for inputs, targets in loop.loader.batches(epoch, 0):
            optimizer.zero_grad()
            with accelerator.autocast():
                loss = loop.loss(call(model, inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            yield loss.item()
        epoch += 1
