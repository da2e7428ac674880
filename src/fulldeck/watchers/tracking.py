"""The run's one stream of figures, handed to the trackers that the recipe names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulldeck.files import write_json
from fulldeck.instruction import labels
from fulldeck.run_folder import METRICS
from fulldeck.trackers.tracker import Parameters, Point, TrackedRun
from fulldeck.watchers.watcher import Watcher

if TYPE_CHECKING:
    from fulldeck.recipe.recipe import Recipe
    from fulldeck.training.loop import TrainingLoop

KNOWN = "trackers.json"
"""In the run's folder: the id that each tracker knows the run by."""
NAMES = {"loss": "train/loss_epoch", "lr": "train/learning_rate", "epoch": "epoch"}


class Tracking(Watcher):
    """Opens the trackers when training begins, so that a run that cannot begin leaves no trace in them.

    Figures and their names: `train/loss` by step (means over a few), and by epoch `train/loss_epoch`,
    `train/learning_rate`, `validation/<metric>`, `time_ms/<phase>`; at the end `final/<split>/<metric>`,
    `final/latency_ms/p99` and `artifacts/<file>/bytes`. Steps are optimizer steps done.

    A tracker that fails is left out from then on, and `note` is told once. A line of metrics.jsonl that
    was there before a resume has been handed over before, and is not again.
    """

    def __init__(self, recipe: Recipe, folder: Path, note: Callable[[str], None]) -> None:
        self._trackers = {tracker.kind: tracker for tracker in recipe.trackers}
        self._parameters = flat_parameters(recipe.resolved())
        self._folder = folder
        self._note = note
        self._runs: dict[str, TrackedRun] = {}
        self._handed = _recorded_before(folder / METRICS)
        """Epoch to the step at its end, of the lines that the trackers have."""

    def training(self, loop: TrainingLoop) -> None:
        if not self._trackers:
            return
        file = self._folder / KNOWN
        known: dict[str, str] = json.loads(file.read_bytes()) if file.is_file() else {}
        for kind, tracker in self._trackers.items():
            with self._left_out_if_it_fails(kind):
                self._runs[kind] = tracker.open(self._folder, self._parameters, known.get(kind))
        write_json(file, known | {kind: run.id for kind, run in self._runs.items()})

    def recorded(self, values: Mapping[str, Any]) -> None:
        if values["epoch"] in self._handed:
            return
        points = points_of(values, self._handed.get(values["epoch"] - 1, 0))
        self._handed[values["epoch"]] = values["step"]
        for kind in list(self._runs):
            with self._left_out_if_it_fails(kind):
                self._runs[kind].log(points)

    def finished(self, result: Mapping[str, Any]) -> None:
        self._close("finished", final_figures(result))

    def ended(self, status: str, error: str) -> None:
        self._close(status, {})

    def _close(self, status: str, figures: Mapping[str, float]) -> None:
        for kind in list(self._runs):
            with self._left_out_if_it_fails(kind):
                self._runs[kind].finish(status, figures)
        self._runs.clear()

    @contextmanager
    def _left_out_if_it_fails(self, kind: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a disk, a server, somebody else's code: no reason to end a training
            self._runs.pop(kind, None)
            reason = (str(error).strip() or "no reason given").splitlines()[0][:200]
            self._note(
                f"tracker {kind} failed and is left out from here on: {type(error).__name__}: {reason} "
                f"({METRICS} has everything)"
            )


def points_of(values: Mapping[str, Any], done: int) -> list[Point]:
    """A line of metrics.jsonl as figures by step; `done` steps were done before its epoch."""
    last, every = values["step"], values["losses_every"]
    points: list[Point] = [
        (min(done + place * every, last), {"train/loss": loss})
        for place, loss in enumerate(values["losses"], start=1)
    ]
    figures = {NAMES[name]: float(values[name]) for name in NAMES}
    for name, value in values.items():
        if name.startswith("validation_"):
            figures[f"validation/{name.removeprefix('validation_')}"] = value
    figures |= {f"time_ms/{phase}": value for phase, value in values["phases_ms"].items()}
    *before, (step, newest) = points or [(last, {})]
    # One point a step: some trackers take a step only once.
    return [*before, (step, {**newest, **figures})] if step == last else [*points, (last, figures)]


def final_figures(result: Mapping[str, Any]) -> dict[str, float]:
    """What a finished run came to: metrics as served, latency, sizes of artifacts."""
    rehearsal = result.get("rehearsal") or {}
    figures = _flat({"final": {**result["metrics"], "latency_ms": rehearsal.get("latency_ms", {})}}, "/")
    return figures | {f"{artifact['path']}/bytes": artifact["bytes"] for artifact in result["artifacts"]}


def flat_parameters(resolved: Mapping[str, Any]) -> Parameters:
    """A resolved recipe without nesting: `train.epochs`, `lr_scheduler.kind`; a bare instruction is True."""
    parameters = _flat({key: value for key, value in resolved.items() if key not in _NO_PARAMETERS}, ".")
    entries = [
        next(iter(item.items())) if isinstance(item, dict) else (item, True)
        for item in resolved["instructions"]
    ]
    for label, (_, value) in zip(labels(name for name, _ in entries), entries, strict=True):
        parameters |= _flat({label.replace("#", "."): value}, ".")
    return parameters


_NO_PARAMETERS = ("instructions", "trackers")


def _flat(value: Mapping[str, Any], separator: str) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            inner = _flat(item, separator)
            plain |= {f"{name}{separator}{key}": leaf for key, leaf in inner.items()}
        else:
            plain[name] = item if isinstance(item, (str, int, float, bool)) else json.dumps(item)
    return plain


def _recorded_before(file: Path) -> dict[int, int]:
    if not file.is_file():
        return {}
    # A line without an end was being written when the process was killed.
    whole = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return {values["epoch"]: values["step"] for values in map(json.loads, whole)}
