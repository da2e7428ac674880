"""Runs that trackers follow: short ones, and one that is interrupted and goes on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fulldeck.pipeline.run import run
from fulldeck.watchers.watcher import Watcher


class Interrupts(Watcher):
    """Ctrl-C after the second epoch was recorded, before its checkpoint is written."""

    def recorded(self, values: Mapping[str, Any]) -> None:
        if values["epoch"] == 1:
            raise KeyboardInterrupt


class Tracked:
    """A recipe with one tracker, run whole or in two parts."""

    epochs = 3
    steps = tuple(range(1, 3 * 13 + 1))
    """Of optimizer steps done, in the training of `recipe`."""
    ends = (13, 26, 39)
    """Of its epochs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def recipe(self, tracker: str) -> Path:
        path = self.folder / "tracked.yaml"
        path.write_text(
            f"workload: breast_cancer\ntrain: {{epochs: {self.epochs}, threads: 1}}\ntrackers: [{tracker}]\n"
            "instructions: [leakage_safe_splitting, lr_scheduler: {kind: linear}]\n"
        )
        return path

    def whole(self, tracker: str) -> dict[str, Any]:
        return run(self.recipe(tracker), out=self.folder / "runs")

    def in_two_parts(self, tracker: str) -> dict[str, Any]:
        recipe = self.recipe(tracker)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, out=self.folder / "runs", watcher=Interrupts())
        return run(recipe, out=self.folder / "runs", resume=True)


@pytest.fixture
def tracked(tmp_path: Path) -> Tracked:
    return Tracked(tmp_path)
