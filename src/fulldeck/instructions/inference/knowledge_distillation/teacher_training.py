"""Training the teacher first, on the batches of the training that it is to teach."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fulldeck.training.batch import Batch
from fulldeck.training.trial import unnoticed

if TYPE_CHECKING:
    from fulldeck.training.loop import TrainingLoop

RATE, DECAY, WARM_UP = 2e-3, 5e-2, 0.1
"""Highest learning rate, weight decay of matrices, and the share of the steps that lead up to the rate; from there it
falls to zero like a cosine."""

log = logging.getLogger("fulldeck.training")


def train_teacher(module: nn.Module, loop: TrainingLoop, epochs: int) -> None:
    """Train `module` in place by AdamW for `epochs` passes over the batches of `loop`, which does not notice.

    It sees the rows as they are read; what other instructions of `loop` change does not reach it.
    """
    from fulldeck.training.loop import TrainingLoop

    count = sum(one.numel() for one in module.parameters())
    log.info("training the teacher: %s parameters, %d epochs", f"{count:,}", epochs)
    module.requires_grad_(True)
    inner = TrainingLoop(
        module,
        loop.loader,
        loop.loss,
        epochs=epochs,
        optimizer=_adamw,
        micro_batch=loop.micro_batch,
        device=str(loop.device),
        seed=loop.seed,
        record=_tell,
    )

    def set_rate(batch: Batch) -> None:
        done = inner.step / max(inner.total_steps, 1)
        share = done / WARM_UP if done < WARM_UP else _cosine((done - WARM_UP) / (1 - WARM_UP))
        for group in inner.optimizers[0].param_groups:
            group["lr"] = RATE * max(share, 1 / max(inner.total_steps, 1))

    inner.on("batch_start", set_rate)
    with unnoticed(loop):
        inner.fit()
    module.to(loop.device).eval().requires_grad_(False)


def _adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    every = list(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in every if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=RATE, fused=True)


def _cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


def _tell(values: Mapping[str, Any]) -> None:
    log.info("teacher: epoch %d, loss %.4g", values["epoch"] + 1, values["loss"])
