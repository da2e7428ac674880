"""What spikes cost: a training on the same data, in which the gradient of a few batches is far too large."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fulldeck.instruction import Instruction
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.training.batch import Part

EPOCHS = 8
EVERY = 40
"""One batch in so many has a spike."""
STRENGTH = 1000.0


def metric_after_spikes(outcome: Outcome, guard: Instruction | None) -> float:
    """Train `outcome`'s workload for EPOCHS with every EVERYth gradient times STRENGTH, behind `guard`.

    Returns the workload's first metric on validation data.
    """
    workload, data = outcome.recipe.workload, outcome.data
    settings = outcome.recipe.resolved()["train"]
    assert data.encoder is not None
    assert data.validation is not None
    torch.manual_seed(settings["seed"])
    loop = TrainingLoop(
        workload.model(data),
        BatchLoader(
            data.train,
            data.encoder,
            settings["batch_size"],
            ShuffledSampler(len(data.train), settings["seed"]),
        ),
        workload.loss(data),
        instructions=[] if guard is None else [guard],
        epochs=EPOCHS,
        optimizer=workload.optimizer(settings["learning_rate"], settings["weight_decay"]),
        validation=BatchLoader(data.validation, data.encoder, 512),
        metrics=workload.metrics(data),
        seed=settings["seed"],
        device=settings["device"],
    )

    def spike(part: Part) -> None:
        if loop.step % EVERY == EVERY - 1:
            assert part.loss is not None
            part.loss = part.loss * STRENGTH

    loop.on("after_forward", spike)
    loop.fit()
    return loop.history[-1][f"validation_{next(iter(loop.metrics))}"]
