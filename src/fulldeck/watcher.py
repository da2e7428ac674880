"""What a run tells while it works: the command line shows it, a notebook may ignore it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fulldeck.planner import Plan
    from fulldeck.training_loop import TrainingLoop


class Watcher:
    """Hears of everything and says nothing; override what you want to hear."""

    def started(self, plan: Plan, folder: Path) -> None:
        """The run folder exists; nothing has been done yet."""

    def stage(self, title: str) -> None:
        """A new part of the work begins: `loading digits`, `training`, `onnx_export`, ..."""

    def note(self, text: str) -> None:
        """Something that the user should know: what was inferred, left out, skipped."""

    def training(self, loop: TrainingLoop) -> None:
        """All instructions have attached; register handlers here to follow the steps."""

    def recorded(self, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl."""

    def changed(self, instruction: Mapping[str, Any]) -> None:
        """One instruction's entry of the result: name, status, changes (before and after)."""

    def finished(self, result: Mapping[str, Any]) -> None:
        """The run is over; this is result.json."""
