"""Trainings are re-used by content: trials that differ only in what happens after the training share one.

What a training depends on is its workload, its settings, and the instructions that open a door until then. Its
newest checkpoint is kept under the hash of these; whoever needs that training goes on from it, as a resumed run
would, to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from fulldeck import __version__
from fulldeck.files import atomic_folder, refusing_disk, write_json
from fulldeck.planner import Plan
from fulldeck.run_folder import METRICS, RunFolder

UNTIL_TRAINED = frozenset({"prepare", "attach"})
_SPENT, _CHECKPOINTS = "spent.json", "checkpoints"


@dataclass(frozen=True)
class Spent:
    """What a training has taken so far, in all processes that worked on it."""

    seconds: float = 0.0
    peak_bytes: float = 0.0


class Trained:
    """The training that `plan` needs, as far as it has come, in `folder`; shared by processes."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.path = folder / content_key(plan)

    def bring(self, run: RunFolder) -> Spent | None:
        """Put it into `run`, as if its own training had come so far; None where there is nothing yet."""
        if not self.path.is_dir():
            return None
        with refusing_disk(run.path):
            shutil.copytree(self.path / _CHECKPOINTS, run.checkpoints, dirs_exist_ok=True)
            if (self.path / METRICS).is_file():
                shutil.copy(self.path / METRICS, run.path / METRICS)
        return Spent(**json.loads((self.path / _SPENT).read_bytes()))

    def keep(self, run: RunFolder, spent: Spent) -> None:
        """Keep that of `run`, which does not go on with it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with refusing_disk(self.path), atomic_folder(self.path) as temporary:
            (run.checkpoints).rename(temporary / _CHECKPOINTS)
            if (run.path / METRICS).is_file():
                shutil.copy(run.path / METRICS, temporary / METRICS)
            write_json(temporary / _SPENT, asdict(spent))


def content_key(plan: Plan) -> str:
    """A hash of all that the trained weights depend on."""
    recipe = plan.recipe.resolved()
    steps = [
        (step.instruction.card.name, step.instruction.model_dump(mode="json"))
        for step in plan.steps
        if step.skipped is None and UNTIL_TRAINED & set(step.instruction.doors())
    ]
    content = {
        "fulldeck": __version__,
        "workload": recipe["workload"],
        "train": recipe["train"],
        "steps": steps,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
