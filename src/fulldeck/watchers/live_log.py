"""A run tells how it goes, about each second, for those who watch it: `fulldeck dashboard RUN --live`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulldeck.monitoring.training_log import TrainingLog
from fulldeck.watchers.watcher import Watcher

if TYPE_CHECKING:
    from fulldeck.planner import Plan
    from fulldeck.training.batch import Batch
    from fulldeck.training.loop import TrainingLoop

VALIDATION = "validation_"
"""Before the names of an epoch's figures that are of validation data."""


class LiveLog(Watcher):
    """Writes a line when another part of the work begins, and each second of training.

    It reads no loss that the loop has not read itself, so it waits for no accelerator.
    """

    def __init__(self) -> None:
        self._log: TrainingLog | None = None
        self._validation: dict[str, float] = {}
        self._loss: float | None = None

    def started(self, plan: Plan, folder: Path) -> None:
        self._log = TrainingLog(folder, name=plan.recipe.name)

    def stage(self, title: str) -> None:
        self._write(stage=title)

    def training(self, loop: TrainingLoop) -> None:
        self._loop = loop
        if self._log is not None:
            self._write(stage="train", epochs=loop.epochs, steps=loop.total_steps)
            loop.on("epoch_start", self._log.pause)
            loop.on("batch_start", self._step)
            loop.on("fit_end", self._tell)

    def recorded(self, values: Mapping[str, Any]) -> None:
        self._loss = float(values["loss"])
        self._validation = {
            name.removeprefix(VALIDATION): float(value)
            for name, value in values.items()
            if name.startswith(VALIDATION) and isinstance(value, (int, float))
        }

    def finished(self, result: Mapping[str, Any]) -> None:
        self._write(status="finished", stage="")

    def ended(self, status: str, error: str) -> None:
        self._write(status=status)

    def _step(self, batch: Batch) -> None:
        assert self._log is not None
        if self._log.count(len(batch.targets)):
            self._tell()

    def _tell(self) -> None:
        loop, losses = self._loop, self._loop.losses.values
        self._write(
            epoch=min(loop.epoch, loop.epochs - 1),
            step=loop.step,
            loss=losses[-1] if losses else self._loss,
            validation=self._validation,
            moved=loop.moved_bytes,
        )

    def _write(self, **changed: Any) -> None:
        # Who prepares a run's data anew, to look at its model, has not started it.
        if self._log is not None:
            self._log.write(**changed)
