"""The folder of a search: found again to go on, as that of a run."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fulldeck.run_folder import RunFolder


class StudyFolder(RunFolder):
    """`<out>/<time>-<name>`: the recipe with its goal, what was tried, the trainings that trials share, the answer."""

    WORD: ClassVar[str] = "search"
    PARTS: ClassVar[tuple[str, ...]] = ("trainings", "trials")

    @property
    def trainings(self) -> Path:
        """Trainings by content."""
        return self.path / "trainings"

    @property
    def trials(self) -> Path:
        """What processes are working on."""
        return self.path / "trials"

    @property
    def journal(self) -> Path:
        """What has been tried, a line each."""
        return self.path / "study.jsonl"

    @property
    def best(self) -> Path:
        """The best recipe."""
        return self.path / "best.yaml"

    @property
    def page(self) -> Path:
        """The result to look at."""
        return self.path / "tuning.html"
