"""What a run will need, told from a few of its real steps: time, memory, disk."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from fulldeck.checkpoints.checkpoint import LastCheckpoint
from fulldeck.errors import RunFailed
from fulldeck.machine import peak_memory
from fulldeck.pipeline.run import run
from fulldeck.watchers.watcher import Watcher

if TYPE_CHECKING:
    from fulldeck.data import Data
    from fulldeck.recipe.recipe import Recipe
    from fulldeck.training.loop import TrainingLoop

WARM_UP, TIMED = 2, 8
"""Steps that are not counted (caches fill, kernels are chosen), and steps that are."""
LONGEST = 20.0
"""Seconds after which no further step is begun."""
EVALUATED = 4
"""Validation batches that are timed."""


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes of one run; measured unless said otherwise.

    `step_seconds` is the median of `timed` steps with everything attached, `evaluation_seconds` that of
    one evaluation after an epoch, reckoned up from a few batches. `memory_bytes` is the peak until then:
    of the whole process, or on an accelerator of its tensors. `checkpoint_bytes` is the size of one,
    `model_bytes` that of the weights.
    """

    data: Data
    device: str
    parameters: int
    load_seconds: float
    step_seconds: float
    timed: int
    steps: int
    steps_per_epoch: int
    epochs: int
    evaluation_seconds: float
    checkpoint_seconds: float
    memory_bytes: int
    checkpoint_bytes: int
    model_bytes: int

    @property
    def training_seconds(self) -> float:
        """Reckoned: all steps, and after each epoch an evaluation and a checkpoint."""
        epochs = -(-self.steps // self.steps_per_epoch)
        return self.steps * self.step_seconds + epochs * (self.evaluation_seconds + self.checkpoint_seconds)

    @property
    def seconds(self) -> float:
        """Reckoned: loading and training. What comes after it is not in it."""
        return self.load_seconds + self.training_seconds

    def to_json(self) -> Mapping[str, Any]:
        """Every figure."""
        figures = {name: value for name, value in vars(self).items() if name != "data"}
        return figures | {"training_seconds": self.training_seconds, "seconds": self.seconds}


def estimate(recipe: Recipe) -> Estimate:
    """Load the data, build the model, attach everything, and time a few steps in a temporary folder.

    It is the run itself, stopped early; nothing is kept and no tracker hears of it. Raises BadInput as
    the run would until then, and RunFailed if it ends before a step.
    """
    with tempfile.TemporaryDirectory(prefix="fulldeck-") as folder:
        stopwatch = _Stopwatch(LastCheckpoint(Path(folder)))
        try:
            run(replace(recipe, trackers=()), out=Path(folder), watcher=stopwatch)
        except _Enough as enough:
            return enough.estimate
    raise RunFailed("the training ended before a step could be timed")


class _Enough(BaseException):
    """The steps have been timed. No Exception: the run has not failed."""

    def __init__(self, estimate: Estimate) -> None:
        super().__init__()
        self.estimate = estimate


class _Stopwatch(Watcher):
    """Times steps from the beginning of one batch to the next, and then leaves the run."""

    def __init__(self, checkpoint: LastCheckpoint) -> None:
        self.checkpoint = checkpoint
        self.begun = time.perf_counter()
        self.load_seconds = 0.0
        self.last = 0.0
        self.times: list[float] = []

    def training(self, loop: TrainingLoop) -> None:
        self.load_seconds = time.perf_counter() - self.begun
        self.begun = time.perf_counter()
        loop.checkpoints = self.checkpoint  # the recipe may keep its own elsewhere
        loop.on("batch_start", lambda batch: self._lap(loop))
        loop.on("fit_end", lambda: self._leave(loop))

    def _lap(self, loop: TrainingLoop) -> None:
        if loop.device.type != "cpu":
            torch.accelerator.synchronize(loop.device)
        now = time.perf_counter()
        # Between epochs there is an evaluation, which is timed by itself.
        if loop.step_in_epoch:
            self.times.append(now - self.last)
        self.last = time.perf_counter()
        if len(self.times) >= WARM_UP + TIMED or (self.times and now - self.begun > LONGEST):
            self._leave(loop)

    def _leave(self, loop: TrainingLoop) -> None:
        if not self.times:  # every epoch is one step, and its evaluation is in this
            self.times.append((time.perf_counter() - self.begun) / max(loop.step, 1))
        timed = self.times[WARM_UP:] or self.times[-1:]
        evaluation_seconds = _evaluation(loop)
        saved = time.perf_counter()
        loop.save()
        assert loop.data is not None
        raise _Enough(
            Estimate(
                data=loop.data,
                device=str(loop.device),
                parameters=sum(parameter.numel() for parameter in loop.model.parameters()),
                load_seconds=self.load_seconds,
                step_seconds=median(timed),
                timed=len(timed),
                steps=loop.total_steps,
                steps_per_epoch=loop.steps_per_epoch,
                epochs=loop.epochs,
                evaluation_seconds=evaluation_seconds,
                checkpoint_seconds=time.perf_counter() - saved,
                memory_bytes=peak_memory(loop.device),
                checkpoint_bytes=self.checkpoint.path.stat().st_size,
                model_bytes=sum(t.numel() * t.element_size() for t in loop.model.state_dict().values()),
            )
        )


def _evaluation(loop: TrainingLoop) -> float:
    """Seconds of one evaluation, by its first batches."""
    if loop.validation is None:
        return 0.0
    begun = time.perf_counter()
    batches = list(islice(loop.validation.batches(0), EVALUATED))
    loop.evaluate(batches)
    return (time.perf_counter() - begun) * len(loop.validation) / len(batches)
