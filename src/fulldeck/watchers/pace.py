"""How a training gets on, read now and then: reading the loss waits for an accelerator."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fulldeck.figures import duration

if TYPE_CHECKING:
    from fulldeck.training.batch import Batch
    from fulldeck.training.loop import TrainingLoop


@dataclass(frozen=True)
class Reading:
    """Where a training is: steps done of all, and its speed since the reading before."""

    epoch: int
    """Counted from 0, as in metrics.jsonl."""
    step: int
    steps: int
    loss: float | None
    samples_per_second: float
    seconds_left: float | None

    def __str__(self) -> str:
        parts = [
            f"step {self.step:,}/{self.steps:,}",
            "" if self.loss is None else f"loss {self.loss:.4f}",
            f"{self.samples_per_second:,.0f} samples/s",
            "" if self.seconds_left is None else f"{duration(self.seconds_left)} left",
        ]
        return "  ".join(part for part in parts if part)


class Pace:
    """Calls `tell` with a reading at most every `seconds`, and every `share` of all steps if that is later."""

    def __init__(
        self, loop: TrainingLoop, tell: Callable[[Reading], object], *, seconds: float, share: float = 0.0
    ) -> None:
        self.loop = loop
        self.tell = tell
        self.seconds = seconds
        self.share = share
        self._samples = self._samples_told = 0
        self._step_told = 0
        self._first: tuple[int, float] | None = None
        self._told = 0.0
        loop.on("batch_start", self._step)

    def reset(self) -> None:
        """Count time and steps anew: something else has just been told."""
        self._told, self._samples_told, self._step_told = time.perf_counter(), self._samples, self.loop.step

    def _step(self, batch: Batch) -> None:
        now, loop = time.perf_counter(), self.loop
        if self._first is None:
            self._first = (loop.step, now)
            self.reset()
        elif now - self._told >= self.seconds and (
            not self.share or loop.step - self._step_told >= self.share * loop.total_steps
        ):
            self.tell(self._reading(now, *self._first))
            self.reset()
        self._samples += len(batch.targets)

    def _reading(self, now: float, first_step: int, began: float) -> Reading:
        loop = self.loop
        done = loop.step - first_step
        return Reading(
            epoch=loop.epoch,
            step=loop.step,
            steps=loop.total_steps,
            loss=None if loop.last_loss is None else loop.last_loss.item(),
            samples_per_second=(self._samples - self._samples_told) / max(now - self._told, 1e-9),
            seconds_left=(loop.total_steps - loop.step) * (now - began) / done if done else None,
        )
