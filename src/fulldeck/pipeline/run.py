"""Asking for a run, or for its plan: what `fulldeck.run` and `fulldeck.plan` do with their arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fulldeck.device import pick_device
from fulldeck.distributed.process_group import joined
from fulldeck.distributed.together import Together, job, restarted
from fulldeck.errors import BadInput
from fulldeck.files import tidy
from fulldeck.instruction import Instruction, Situation
from fulldeck.pipeline.execution import Execution
from fulldeck.pipeline.rank_agreement import refuse_other_work
from fulldeck.planner import Plan, make_plan
from fulldeck.recipe.reader import read_recipe
from fulldeck.recipe.recipe import Recipe, make_recipe
from fulldeck.run_folder import RunFolder
from fulldeck.watchers.progress import default_watcher
from fulldeck.watchers.watcher import Watcher
from fulldeck.workload import Workload


def run(
    recipe: str | Path | Recipe | Workload | Mapping[str, Any],
    instructions: Sequence[Instruction] | None = None,
    *,
    settings: Sequence[str] = (),
    out: Path | str = "runs",
    resume: bool = False,
    watcher: Watcher | None = None,
    **train: Any,
) -> dict[str, Any]:
    """Execute a recipe, or `instructions` on a workload, and return the result.

    `recipe` is a file, the name of a shipped recipe, a Recipe; with `instructions`, a workload: its name,
    a mapping with `kind`, or the object. `settings` change a recipe (`train.epochs=3`), `train` are
    training settings (`epochs=3`). The result is the content of result.json; `result["run"]` is the
    folder below `out`. With `resume`, the newest unfinished run of the same recipe goes on. `watcher` is
    told what happens; without one, only a notebook shows progress.

    Raises BadInput (for a recipe: with every problem), RunFailed, KeyboardInterrupt.
    """
    made = as_recipe(recipe, instructions, settings, train)
    plan = make_plan(made, situation(made))
    for tracker in made.trackers:
        tracker.check()
    with joined(together(plan), plan.situation.device) as ranks:
        if ranks.world_size > 1:
            refuse_other_work(ranks, made.to_yaml())
        path, resume = ranks.first(lambda: _folder(made, Path(out), resume))
        folder = RunFolder(path)
        plan = plan.deciding(ranks.first(lambda: (folder.decisions() if resume else None) or plan.skipped))
        if ranks.rank > 0:
            return Execution(plan, folder, resume, watcher or Watcher(), ranks).assist()
        with folder.locked():
            if resume:
                tidy(path)
            return Execution(plan, folder, resume, watcher or default_watcher(), ranks).finish()


def _folder(recipe: Recipe, out: Path, resume: bool) -> tuple[Path, bool]:
    """A new folder, or that of a run which is to be gone on with; and whether it is."""
    text, name, begun_by = recipe.to_yaml(), recipe.name, job()
    if resume:
        return RunFolder.unfinished(out, name, text).path, True
    if (begun_by is not None or restarted()) and (
        begun := RunFolder.of_job(out, name, text, begun_by, restarted())
    ):
        return begun.path, True
    return RunFolder.create(out, name, text, begun_by).path, False


def plan(
    recipe: str | Path | Recipe | Workload | Mapping[str, Any],
    instructions: Sequence[Instruction] | None = None,
    *,
    settings: Sequence[str] = (),
) -> Plan:
    """Resolve a recipe as `run` would. Raises BadInput with every problem."""
    made = as_recipe(recipe, instructions, settings, {})
    return make_plan(made, situation(made))


def as_recipe(
    recipe: str | Path | Recipe | Workload | Mapping[str, Any],
    instructions: Sequence[Instruction] | None,
    settings: Sequence[str],
    train: Mapping[str, Any],
) -> Recipe:
    """The recipe that the arguments of `run` mean."""
    if isinstance(recipe, Recipe):
        made = recipe
    elif instructions is not None or isinstance(recipe, (Workload, Mapping)):
        return make_recipe(
            recipe if not isinstance(recipe, Path) else str(recipe), instructions or (), train=train
        )
    else:
        made = read_recipe(recipe, settings)
    return replace(made, train=made.train.replace(**train)) if train else made


def situation(recipe: Recipe) -> Situation:
    """What is known before the data is read."""
    workload = recipe.workload
    try:
        device = pick_device(recipe.train.device)
    except BadInput as error:
        if recipe.profile is None:
            raise
        raise BadInput(
            f"{error}, and hardware: {recipe.hardware} wants it; run it there, or here with --set hardware=auto"
        ) from None
    return Situation(workload.data_kind, workload.task, device.type)


def together(plan: Plan) -> Together | None:
    """How several processes would train the plan, if an instruction of it spreads the training over them."""
    offers = (instruction.together() for instruction in plan.acting.values())
    return next((offer for offer in offers if offer is not None), None)
