"""A run told to the log: what it does to `fulldeck.run`, how it learns to `fulldeck.training`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulldeck.logs import tree
from fulldeck.watchers.pace import Pace, Reading
from fulldeck.watchers.watcher import Watcher

if TYPE_CHECKING:
    from fulldeck.planner import Plan
    from fulldeck.training.loop import TrainingLoop

SECONDS = 10.0
"""Between two records of a long epoch's steps."""
_run, _training = tree.getChild("run"), tree.getChild("training")


class RunLog(Watcher):
    """Every event as one record of level INFO, with its figures as fields."""

    def started(self, plan: Plan, folder: Path) -> None:
        _run.info("%s in %s", plan.recipe.name, folder, extra={"recipe": plan.recipe.name, "run": folder})

    def stage(self, title: str) -> None:
        _run.info("%s", title, extra={"stage": title})

    def note(self, text: str) -> None:
        _run.info("%s", text)

    def training(self, loop: TrainingLoop) -> None:
        if _training.isEnabledFor(logging.INFO):
            Pace(loop, _tell, seconds=SECONDS)

    def recorded(self, values: Mapping[str, Any]) -> None:
        fields = {
            name: value
            for name, value in values.items()
            if name != "losses_every" and isinstance(value, (int, float))
        }
        _training.info("epoch %d  loss %.4f", values["epoch"] + 1, values["loss"], extra=fields)

    def changed(self, instruction: Mapping[str, Any]) -> None:
        fields = {"instruction": instruction["label"], "changes": instruction["changes"]}
        _run.info("%s: %s", instruction["label"], instruction["status"], extra=fields)

    def finished(self, result: Mapping[str, Any]) -> None:
        fields = {"status": "finished", "run": result["run"], "metrics": result["metrics"]}
        _run.info("finished", extra=fields)

    def ended(self, status: str, error: str) -> None:
        _run.info("%s: %s", status, error, extra={"status": status})


def _tell(reading: Reading) -> None:
    _training.info("%s", reading, extra=asdict(reading))
