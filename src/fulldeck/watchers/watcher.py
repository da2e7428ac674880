"""What a run tells while it works: the command line shows it, trackers and logs keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from fulldeck.planner import Plan
    from fulldeck.training.loop import TrainingLoop


class Watcher:
    """Hears of everything and says nothing; override what you want to hear."""

    on_all_ranks: ClassVar[bool] = False
    """Of several processes that train together, usually only the first one is watched."""

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

    def ended(self, status: str, error: str) -> None:
        """The run is over before its end: `failed` or `interrupted`, and why."""


class Watchers(Watcher):
    """Several that hear the same, one after the other."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.watchers = watchers

    def started(self, plan: Plan, folder: Path) -> None:
        for watcher in self.watchers:
            watcher.started(plan, folder)

    def stage(self, title: str) -> None:
        for watcher in self.watchers:
            watcher.stage(title)

    def note(self, text: str) -> None:
        for watcher in self.watchers:
            watcher.note(text)

    def training(self, loop: TrainingLoop) -> None:
        for watcher in self.watchers:
            watcher.training(loop)

    def recorded(self, values: Mapping[str, Any]) -> None:
        for watcher in self.watchers:
            watcher.recorded(values)

    def changed(self, instruction: Mapping[str, Any]) -> None:
        for watcher in self.watchers:
            watcher.changed(instruction)

    def finished(self, result: Mapping[str, Any]) -> None:
        for watcher in self.watchers:
            watcher.finished(result)

    def ended(self, status: str, error: str) -> None:
        for watcher in self.watchers:
            watcher.ended(status, error)
