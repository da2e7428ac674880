"""One recipe carried out to its end, and the figures that can be read off it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fulldeck.candidate import Candidate
from fulldeck.data import Data
from fulldeck.instruction import Instruction
from fulldeck.pipeline.execution import Execution
from fulldeck.pipeline.gate import size_in_bytes
from fulldeck.pipeline.run import situation
from fulldeck.planner import make_plan
from fulldeck.recipe.recipe import Recipe
from fulldeck.run_folder import METRICS, RunFolder
from fulldeck.service import Service
from fulldeck.watchers.watcher import Watcher


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: its result, and the things that went through its doors.

    `prepare` sends other data through the same `prepare` doors (and the default split).
    """

    recipe: Recipe
    result: dict[str, Any]
    data: Data
    candidate: Candidate
    service: Service
    prepare: Callable[[Data], Data]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.result["run"])

    def latency(self, calls: int) -> float:
        """Milliseconds of one call with one row, the mean of `calls`."""
        row = {name: value[:1] for name, value in self.candidate.example(1).items()}
        self.candidate.run(row)
        start = time.perf_counter()
        for _ in range(calls):
            self.candidate.run(row)
        return 1000 * (time.perf_counter() - start) / calls

    def figures(self) -> dict[str, float]:
        """The metrics on test data (else validation data) by name, the losses, sizes, and what instructions
        say of themselves (their `changes`, after), the last one named so winning."""
        found: dict[str, float] = {}
        for entry in self.result["instructions"]:
            for name, change in entry["changes"].items():
                found[name] = change["after"]
        history = self.result["training"]["history"]
        found |= {name: value for name, value in history[-1].items() if isinstance(value, float)}
        metrics = self.result["metrics"]
        found |= metrics.get("test") or metrics.get("validation") or metrics["train"]
        found["step_time_ms"] = self.step_time_ms()
        found["artifact_bytes"] = float(size_in_bytes(self.candidate))
        if self.result["rehearsal"] is not None:
            found["rehearsal_agreement"] = self.result["rehearsal"]["agreement"]
        return found

    def step_time_ms(self) -> float:
        """Of a training step, the median over epochs of its phases together."""
        lines = (self.folder / METRICS).read_text().splitlines()
        return float(statistics.median(sum(json.loads(line)["phases_ms"].values()) for line in lines))

    def curve(self) -> list[float]:
        """The validation loss after each epoch; empty without validation data."""
        return [
            values["validation_loss"]
            for values in self.result["training"]["history"]
            if "validation_loss" in values
        ]


def carry_out(recipe: Recipe, out: Path, seed: int | None = None, watcher: Watcher | None = None) -> Outcome:
    """Run `recipe` below `out`, with another `seed` if one is given. Raises what `fulldeck.run` raises."""
    if seed is not None:
        recipe = replace(recipe, train=recipe.train.replace(seed=seed))
    folder = RunFolder.create(out, recipe.name, recipe.to_yaml())
    with folder.locked():
        execution = Execution(make_plan(recipe, situation(recipe)), folder, False, watcher or Watcher())
        result = execution.finish()
    assert execution.service is not None
    candidate = execution.service.candidate
    return Outcome(recipe, result, candidate.data, candidate, execution.service, execution.prepare)


def proof(outcome: Outcome, instruction: Instruction) -> float:
    """What the instruction itself measures on an outcome, as a plain number."""
    return float(np.asarray(instruction.prove(outcome)))
