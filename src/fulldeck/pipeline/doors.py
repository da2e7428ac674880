"""The doors of a plan's instructions: opened in order, skipped where one is optional and cannot act."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from fulldeck.candidate import Candidate
from fulldeck.data import Data
from fulldeck.errors import BadInput, CannotAct
from fulldeck.pipeline.record import RunRecord
from fulldeck.planner import Step
from fulldeck.service import Service
from fulldeck.training.loop import TrainingLoop

Thing = TypeVar("Thing", Data, Candidate, Service)


class Doors:
    """Opens them, and notes in `record` which instruction was applied, and which one skipped."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record

    def steps(self, door: str) -> Iterator[Step]:
        """The plan's steps that have this door, one after another, as the watchers are told."""
        for step in self.record.plan.steps:
            if door in step.instruction.doors() and not self._skipped(step):
                self.record.watcher.stage(step.label)
                yield step

    def open(self, step: Step, use: Callable[[Thing], Thing], thing: Thing) -> Thing:
        """What `use`, a door of the step, makes of `thing`; `thing` itself where it is skipped.

        Raises BadInput, naming the instruction, if it cannot act and is not optional.
        """
        try:
            with _blaming(step):
                return use(thing)
        except CannotAct as error:
            self._cannot(step, error)
            return thing

    def attach(self, step: Step, loop: TrainingLoop) -> None:
        """The step's training door."""
        try:
            with _blaming(step):
                loop.attach(step.instruction, step.label)
        except CannotAct as error:
            self._cannot(step, error)
        else:
            self.applied(step, {})

    def applied(self, step: Step, figures: Mapping[str, Any]) -> None:
        """The step did its work, and changed these figures."""
        if self._skipped(step):
            return
        report = self.record.reports[step.label]
        report["status"] = "applied"
        report["changes"] |= figures
        self.record.watcher.changed(report)

    def _skipped(self, step: Step) -> bool:
        return bool(self.record.reports[step.label]["status"] == "skipped")

    def _cannot(self, step: Step, error: CannotAct) -> None:
        if not step.entry.optional:
            instead = "; or write optional: true to go on without it" if step.entry.where else ""
            raise BadInput(f"{step.label} cannot act: {error}{instead}", step.entry.where) from error
        self.record.reports[step.label] |= {"status": "skipped", "reason": str(error)}
        self.record.note(f"{step.label} was skipped: {error}")


@contextmanager
def _blaming(step: Step) -> Iterator[None]:
    """What a door refuses names the instruction, and where in the recipe it stands."""
    try:
        yield
    except CannotAct:
        raise
    except BadInput as error:
        if error.where is not None:
            raise
        named = error.message if step.label in error.message else f"{step.label}: {error.message}"
        raise BadInput(named, step.entry.where) from error
