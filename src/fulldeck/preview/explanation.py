"""A recipe in plain words: what it will do, in which order and why, what it needs and what it leaves."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fulldeck.catalogue import catalogue
from fulldeck.planner import Plan, Step
from fulldeck.preview.estimate import Estimate
from fulldeck.preview.inspection import describe

DOORS = {
    "prepare": "with the data, before a model exists",
    "attach": "while training",
    "optimise": "with the trained model; after each the outputs are compared with those before",
    "configure": "for the server",
}
"""When an instruction acts, by its first door."""
FILES = {
    "recipe.yaml": "the recipe with every default filled in; run it again with: fulldeck run",
    "plan.json": "the order of the instructions, with the reasons",
    "metrics.jsonl": "figures of each epoch, one line each",
    "live.jsonl": "the last minutes, second by second, for the live page",
    "checkpoints/": "the newest state of the training; after a crash --resume goes on from it",
    "result.json": "what came out: metrics, what each instruction changed, sizes, times",
    "evaluation.json": "where the model is right and wrong, with the worst errors",
    "artifacts/": "the model in other forms",
    "package/": "what a server needs, sealed by hashes",
    "example.png": "one test image, to ask the model with",
    "example.json": "one test item, to ask the model with",
    "report.html": "all of it on one page",
}
"""What a run leaves in its folder."""


@dataclass(frozen=True)
class Explanation:
    """A plan, and where steps were timed what the run will need."""

    plan: Plan
    estimate: Estimate | None

    @property
    def workload(self) -> str:
        """What is worked on, in a sentence."""
        module = sys.modules[type(self.plan.recipe.workload).__module__]
        return inspect.cleandoc(module.__doc__ or "").partition("\n")[0]

    @property
    def facts(self) -> list[str]:
        """What is seen in the data, as prepared; empty where they were not read."""
        return describe(self.estimate.data) if self.estimate is not None else []

    def acting(self) -> dict[str, list[Step]]:
        """Steps by when they act first (DOORS), in order; the training is there in any case."""
        found: dict[str, list[Step]] = {"attach": []}
        for step in self.plan.steps:
            found.setdefault(next(iter(step.instruction.doors()), "attach"), []).append(step)
        return {when: found[door] for door, when in self.doors.items() if door in found}

    @property
    def doors(self) -> dict[str, str]:
        """DOORS, with how long the training is."""
        train = self.plan.recipe.resolved()["train"]
        length = f"{train['epochs']} epochs in batches of {train['batch_size']}"
        if "max_steps" in train:
            length += f", at most {train['max_steps']:,} steps"
        return DOORS | {"attach": f"{DOORS['attach']}, {length}"}

    @property
    def files(self) -> dict[str, str]:
        """What the run leaves: FILES, without what no instruction writes."""
        doors = {door for instruction in self.plan.acting.values() for door in instruction.doors()}
        packed = any("package" in i.card.touches for i in self.plan.acting.values())
        image = self.plan.recipe.workload.data_kind == "image"
        written = {
            "artifacts/": "optimise" in doors,
            "package/": packed,
            "example.png": packed and image,
            "example.json": packed and not image,
        }
        absent = {name for name, there in written.items() if not there}
        return {name: words for name, words in FILES.items() if name not in absent}

    @property
    def disk_bytes(self) -> int | None:
        """Most bytes of the run folder, as far as models make it: a checkpoint (twice while it is written),
        each form of the model as large as the weights, the package as well."""
        if self.estimate is None:
            return None
        forms = sum("optimise" in i.doors() for i in self.plan.acting.values()) + ("package/" in self.files)
        return 2 * self.estimate.checkpoint_bytes + forms * self.estimate.model_bytes

    def to_json(self) -> Mapping[str, Any]:
        """For `fulldeck explain --json`."""
        recipe = self.plan.recipe
        estimate = self.estimate
        return {
            "recipe": recipe.resolved(),
            "workload": self.workload,
            "facts": self.facts,
            "steps": [step.to_json() | words(step) for step in self.plan.steps],
            "estimate": None if estimate is None else {**estimate.to_json(), "disk_bytes": self.disk_bytes},
            "run_folder": self.files,
        }


def words(step: Step) -> dict[str, str]:
    """What an instruction is and when it is used, by its documentation."""
    card = step.instruction.card
    return {"title": card.title, "use_when": catalogue().find(card.name).use_when}
