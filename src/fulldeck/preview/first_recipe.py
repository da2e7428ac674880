"""A first recipe for data that have been looked at: it runs as it is, and each line says why it is there.

Which instructions it has is told by their cards: the goal that a first recipe takes them for, the kinds of
data, the rules of the planner. None is named here.
"""

from __future__ import annotations

import io
import os
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from fulldeck.catalogue import catalogue
from fulldeck.data import Data
from fulldeck.declared import Refused
from fulldeck.device import pick_device
from fulldeck.errors import BadInput
from fulldeck.hardware import Profile, find_profile
from fulldeck.instruction import GOALS, Situation
from fulldeck.pipeline.splitting import with_default_split
from fulldeck.planner import Plan, Step, make_plan
from fulldeck.preview.inspection import Inspection
from fulldeck.recipe.recipe import PATHS, Entry, Recipe, Train
from fulldeck.recipe.schema import SCHEMA

WIDTH = 100
LEAST_STEPS = {"accurate": 600}
USUAL_LEAST_STEPS = 300
"""Optimizer steps below which a network has hardly learnt; small data get more epochs, to a limit."""
STEPS_AN_EPOCH = 10
"""An epoch of fewer steps says little about progress, so small data get smaller batches."""
SMALLEST_BATCH, MOST_EPOCHS = 8, 100


@dataclass(frozen=True)
class FirstRecipe:
    """The text of a recipe, its plan, and the instructions that were left out with the reason."""

    text: str
    plan: Plan
    left_out: Mapping[str, str]


def write_first_recipe(seen: Inspection, goal: str, file: Path, hardware: str = "auto") -> FirstRecipe:
    """Compose the recipe that `file` will hold, for `goal` (one of GOALS) and the machine `hardware`.

    The machine is `auto` for this one, else the name or file of a hardware profile. The doors that prepare
    data have been opened on the data, so what cannot be split is refused here. Raises BadInput for an unknown
    goal or profile, or as those doors do.
    """
    data = seen.data
    profile = None if hardware == "auto" else find_profile(hardware)
    if profile is None:
        situation = Situation(data.kind, data.task, pick_device().type)
    else:
        situation = Situation(data.kind, data.task, profile.device, frozenset(profile.dtypes))
    recipe = Recipe(file.stem, seen.workload, train=_train(seen, goal))
    reasons: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for card in catalogue():
        if goal not in card.goals:
            continue
        instruction, reason = card.load().suggest(data)
        try:
            make_plan(replace(recipe, entries=(*recipe.entries, Entry(instruction))), situation)
        except Refused as error:
            left_out[card.name] = "; ".join(_why(problem) for problem in error.problems)
            continue
        # What only some goals want, the run can do without.
        entry = Entry(instruction, optional=len(card.goals) < len(GOALS))
        recipe = replace(recipe, entries=(*recipe.entries, entry))
        reasons[card.name] = reason
    plan = make_plan(recipe, situation)
    for step in plan.steps:
        data = step.instruction.prepare(data)
    data = with_default_split(data, recipe.train.seed)
    rows = len(data.validation or data.train)
    plan = replace(plan, steps=tuple(_tolerant(step, situation, rows, reasons) for step in plan.steps))
    machine = _machine(profile, hardware, file)
    return FirstRecipe(_text(seen, goal, file, plan, data, machine, reasons, left_out), plan, left_out)


def _train(seen: Inspection, goal: str) -> Train:
    """Batches small enough and epochs enough for the size of the data."""
    defaults = seen.workload.defaults
    rows = len(seen.data.train)
    batch = defaults.batch_size
    while batch > SMALLEST_BATCH and rows < batch * STEPS_AN_EPOCH:
        batch //= 2
    wanted = LEAST_STEPS.get(goal, USUAL_LEAST_STEPS)
    epochs = max(defaults.epochs, min(-(-wanted * batch // rows), MOST_EPOCHS))
    return Train(epochs=epochs, batch_size=batch)


def _why(problem: BadInput) -> str:
    return re.sub(r"^.*? cannot act: |; (leave it out|or write optional).*$", "", problem.message)


def _tolerant(step: Step, situation: Situation, rows: int, reasons: dict[str, str]) -> Step:
    """Where one validation example weighs more than the step may cost, breaking that must not stop a run."""
    card = step.instruction.card
    allowed = step.instruction.tolerance().metric_drop
    if "optimise" not in step.instruction.doors() or not card.evidence.cost or allowed is None:
        return step
    if situation.task != "classification" or rows * allowed >= 1:
        return step
    said = (
        f"with about {rows} validation examples one of them is {1 / rows:.1%}, more than it may cost "
        f"({allowed:.1%}), so it is tolerated"
    )
    reasons[card.name] = "; ".join(filter(None, (reasons[card.name], said)))
    return replace(step, entry=replace(step.entry, tolerate=True))


# The text ------------------------------------------------------------------------------------------------


def _text(
    seen: Inspection,
    goal: str,
    file: Path,
    plan: Plan,
    prepared: Data,
    machine: list[str],
    reasons: Mapping[str, str],
    left_out: Mapping[str, str],
) -> str:
    train = plan.recipe.train
    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        *_comment(f"Written by fulldeck init; goal {goal}: {GOALS[goal]}."),
        "",
        *_comment("What was seen:"),
        *(line for fact in seen.facts for line in _comment(f"- {fact}", hanging="  ")),
        *_workload(seen, file),
        "",
        *machine,
        *_comment(_training_words(prepared, train)),
        f"train: {{epochs: {train.epochs}, batch_size: {train.batch_size}, seed: {train.seed}}}",
        "",
        *_comment("With optional: true, the run goes on without an instruction where it cannot act."),
        "instructions:",
    ]
    for step in plan.steps:
        lines += _instruction(step, reasons)
    for name, reason in left_out.items():
        lines += _comment(f"left out: {name}, which {reason}", indent="  ")
    return "\n".join(lines) + "\n"


def _workload(seen: Inspection, file: Path) -> list[str]:
    settings = dict(seen.settings)
    for key in PATHS:
        path = Path(settings.get(key, ""))
        if key in settings and path.exists() and not path.is_absolute():
            settings[key] = os.path.relpath(path, file.parent)
    return [f"workload: {settings['kind'] if len(settings) == 1 else _flow(settings)}"]


def _machine(profile: Profile | None, hardware: str, file: Path) -> list[str]:
    if profile is None:
        return []
    name = os.path.relpath(hardware, file.parent) if hardware.endswith(".toml") else hardware
    said = f"The machine: {profile.title}. What suits it is taken where the instructions below say nothing."
    return [*_comment(said), f"hardware: {name}", ""]


def _training_words(prepared: Data, train: Train) -> str:
    assert train.batch_size is not None
    assert train.epochs is not None
    parts = ", ".join(f"{name} {len(part):,}" for name, part in prepared.splits().items())
    steps = -(-len(prepared.train) // train.batch_size)
    return (
        f"Examples of each part: {parts}. Train makes {steps:,} steps of {train.batch_size} an epoch, and "
        f"{steps * train.epochs:,} in all. The seed makes the run repeatable."
    )


def _instruction(step: Step, reasons: Mapping[str, str]) -> list[str]:
    card = step.instruction.card
    title = card.title.rstrip(".")
    words = [f"{card.number:02d}: {title}."]
    if use := catalogue().find(card.name).use_when:
        words.append(f"Use when: {use}")
    if reason := reasons.get(card.name):
        words.append(f"Here: {reason}.")
    flags = {key: True for key in ("optional", "tolerate") if getattr(step.entry, key)}
    parameters = step.instruction.parameters() | flags
    value = f"{card.name}: {_flow(parameters)}" if parameters else card.name
    return [*_comment(" ".join(words), indent="  "), f"  - {value}"]


def _comment(text: str, indent: str = "", hanging: str = "") -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=start + hanging, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def _flow(value: Mapping[str, Any]) -> str:
    """A mapping in YAML's flow style, on one line."""
    yaml = YAML()
    yaml.default_flow_style = True
    yaml.width = 10_000
    stream = io.StringIO()
    yaml.dump(dict(value), stream)
    return stream.getvalue().strip()
