"""How long one checkpoint holds up the training: the figure that the instruction's evidence names."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fulldeck.device import pick_device
from fulldeck.training.loader import BatchLoader

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.instruction import Instruction
    from fulldeck.training.batch import Batch

SAVES = 12
"""Timed, after a first one that is not: it allocates."""
APART = 10
"""Steps between two, in which a thread may write."""


def save_stall(outcome: Outcome, instructions: Iterable[Instruction]) -> float:
    """Median milliseconds of a save in a training on the outcome's data, with `instructions` or the loop's own."""
    from fulldeck.training.loop import TrainingLoop

    workload, data, device = outcome.recipe.workload, outcome.data, pick_device(outcome.recipe.train.device)
    assert data.encoder is not None
    folder = Path(tempfile.mkdtemp(dir=outcome.folder))
    loop = TrainingLoop(
        workload.model(data),
        BatchLoader(data.train, data.encoder, outcome.recipe.resolved()["train"]["batch_size"]),
        workload.loss(data),
        instructions=instructions,
        epochs=SAVES * APART,  # more than enough
        max_steps=(SAVES + 1) * APART + 1,
        device=device.type,
        checkpoints=folder,
    )
    stalls: list[float] = []

    def save(batch: Batch) -> None:
        if loop.step and loop.step % APART == 0:
            begun = time.perf_counter()
            loop.save()
            stalls.append(time.perf_counter() - begun)

    loop.on("batch_start", save)
    try:
        loop.fit()
    finally:
        shutil.rmtree(folder)
    return 1000 * statistics.median(stalls[1:])
