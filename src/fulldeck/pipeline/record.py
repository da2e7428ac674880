"""What a run says of itself: to its folder, and to those who watch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fulldeck.candidate import Artifact
from fulldeck.files import plain, write_json
from fulldeck.machine import describe_machine
from fulldeck.planner import Plan, Step
from fulldeck.report import write_report
from fulldeck.run_folder import PLAN, RunFolder
from fulldeck.watchers.live_log import LiveLog
from fulldeck.watchers.run_log import RunLog
from fulldeck.watchers.tracking import Tracking
from fulldeck.watchers.watcher import Watcher, Watchers


class RunRecord:
    """The result of a run while it grows: `result` is what result.json will hold, `reports` its instructions by label.

    Of several processes only the `first` one tells all watchers.
    """

    def __init__(self, plan: Plan, folder: RunFolder, watcher: Watcher, *, first: bool) -> None:
        self.plan = plan
        self.folder = folder
        self.notes: list[str] = []
        if first:
            tracking = Tracking(plan.recipe, folder.path, self.note)
            self.watcher = Watchers([tracking, RunLog(), LiveLog(), watcher])
        else:
            self.watcher = Watchers([watcher] if watcher.on_all_ranks else [])
        self.reports: dict[str, dict[str, Any]] = {step.label: _report(step) for step in plan.steps}
        self.result: dict[str, Any] = {
            "run": str(folder.path),
            "status": "running",
            "recipe": plan.recipe.name,
            "metrics": {},
            "instructions": list(self.reports.values()),
            "artifacts": [],
            "rehearsal": None,
            "notes": self.notes,
            "seconds": {},
            "machine": describe_machine(),
        }
        self._rewound = False

    def begun(self) -> None:
        """The run begins: from now on its folder tells how it stands."""
        self.folder.write_result(self.result)
        write_json(self.folder.path / PLAN, {"steps": [step.to_json() for step in self.plan.steps]})
        self.folder.point_latest()
        self.watcher.started(self.plan, self.folder.path)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A part of the work, which is timed."""
        self.watcher.stage(name)
        start = time.perf_counter()
        yield
        self.result["seconds"][name] = round(time.perf_counter() - start, 3)

    def note(self, text: str) -> None:
        """What the user should know."""
        self.notes.append(text)
        self.watcher.note(text)

    def note_rest(self, notes: Sequence[str], told: int) -> int:
        """All of `notes` but the first `told`; return how many have been told then."""
        for text in notes[told:]:
            self.note(text)
        return len(notes)

    def artifact(self, artifact: Artifact) -> None:
        """A file that the run made."""
        self.result["artifacts"].append(
            {
                "path": str(artifact.path.relative_to(self.folder.path)),
                "kind": artifact.kind,
                "bytes": artifact.bytes,
                "precision": artifact.precision,
            }
        )

    def epoch(self, values: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl; what an earlier attempt wrote of the same epoch and later ones goes."""
        if not self._rewound:
            self.folder.rewind_metrics(values["epoch"])
            self._rewound = True
        self.folder.append_metrics(values)
        self.watcher.recorded(values)

    def finished(self) -> None:
        """All is done. A run that says that it is finished lacks nothing, so that comes last."""
        self.result["status"] = "finished"
        self._write_report()
        self.folder.write_result(self.result)
        self.watcher.finished(self.result)

    def ended(self, status: str, error: str) -> None:
        """The run is over before its end."""
        self.watcher.ended(status, error)
        self.result |= {"status": status, "error": error}
        self.folder.write_result(self.result)
        self._write_report()

    def discarded(self, error: str) -> None:
        """The run could not begin: nothing is left of it."""
        self.watcher.note(f"nothing was trained, so {self.folder.path} is removed again")
        self.watcher.ended("failed", error)
        self.folder.discard()

    def _write_report(self) -> None:
        try:
            write_report(self.folder.path, json.loads(json.dumps(self.result, default=plain)))
        except Exception as error:
            # Whatever it is: a page about the work is never worth the work.
            self.note(f"report.html could not be written: {error}")


def _report(step: Step) -> dict[str, Any]:
    card = step.instruction.card
    report: dict[str, Any] = {"name": card.name, "number": card.number, "label": step.label}
    if step.skipped is not None:
        return report | {"status": "skipped", "reason": step.skipped, "changes": {}}
    return report | {"status": "planned", "changes": {}}
