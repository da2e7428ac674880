"""`verify`: what one instruction does, measured against the same recipe without it."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fulldeck.catalogue import catalogue
from fulldeck.errors import BadInput
from fulldeck.evidence.claim import Claim
from fulldeck.evidence.measured import AFRESH, IN_ROUNDS, Measured, NothingMeasured, memory, outcomes, timed
from fulldeck.evidence.measurement import (
    BASELINE,
    INTERRUPTED,
    TREATMENT,
    Seeds,
    Setting,
    as_rows,
    deadline,
    over_seeds,
)
from fulldeck.evidence.peers import peer
from fulldeck.evidence.statistics import LOOKS
from fulldeck.evidence.store import NOT_MEASURED
from fulldeck.instruction import Instruction
from fulldeck.machine import describe_machine, revision
from fulldeck.pipeline.run import situation
from fulldeck.planner import make_plan
from fulldeck.recipe.reader import read_recipe
from fulldeck.recipe.recipe import Entry, Recipe, make_recipe

SCHEMA = 1
QUICK_SEEDS = 3


def verify(
    name: str,
    *,
    recipe: str | Path | Recipe | None = None,
    quick: bool = False,
    budget: float | None = None,
    against: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure the instruction `name` on `recipe`, or on the workload that its evidence names.

    The baseline is the recipe without it; if the recipe does not have it, the treatment is the recipe with
    it. `quick` stops at the first look and takes three seeds, `budget` is in seconds, `against` names a peer
    that is timed beside it. The result is plain JSON. Raises BadInput, RunFailed (an arm failed: its last
    lines and log), KeyboardInterrupt.
    """
    instruction, baseline, treatment = arms_of(name, recipe)
    evidence = instruction.card.evidence
    if against is not None:
        peer(against)
        if IN_ROUNDS.get(evidence.metric) != "steps":
            raise BadInput(
                f"{name} is shown by {evidence.metric}, and peers are only timed in training (step_time)"
            )
    claims = {evidence.metric: Claim.parse(evidence.expect)}
    claims |= {figure: Claim.parse(text) for figure, text in evidence.cost.items()}
    recipes = {BASELINE: baseline, TREATMENT: treatment}
    started = time.monotonic()
    setting = Setting(
        Path(tempfile.mkdtemp(prefix="fulldeck-verify-")),
        deadline(budget),
        LOOKS[:1] if quick else LOOKS,
        QUICK_SEEDS if quick else Setting.seeds,
        tell,
        () if against is None else (against,),
    )
    measured = _measure_all(claims, recipes, instruction, setting)
    first, *costs = measured
    interrupted = any(one.ended == INTERRUPTED for one in measured)
    # Where an arm fails the folder stays: its log is named.
    shutil.rmtree(setting.folder, ignore_errors=True)
    return {
        "schema": SCHEMA,
        "name": instruction.card.name,
        "number": instruction.card.number,
        "parameters": instruction.parameters(),
        "recipe": {BASELINE: baseline.resolved(), TREATMENT: treatment.resolved()},
        "workload": baseline.workload.name,
        **first.to_json(),
        "costs": [cost.to_json() for cost in costs],
        "not_measured": [name for name in claims if name not in {one.metric for one in measured}],
        "peers": first.peers,
        "samples": {one.metric: as_rows(one.samples) for one in measured},
        "status": "interrupted" if interrupted else "finished",
        "quick": quick,
        "budget": budget,
        "seconds": round(time.monotonic() - started, 1),
        **_here_and_now(),
    }


def refused(name: str, reason: str, *, quick: bool = False, budget: float | None = None) -> dict[str, Any]:
    """What is kept of an instruction that could not be measured on the workload that its evidence names."""
    entry = catalogue().find(name)
    return {
        "schema": SCHEMA,
        "name": entry.name,
        "number": entry.number,
        "workload": entry.evidence["workload"],
        "verdict": NOT_MEASURED,
        "reason": without_files(reason),
        "quick": quick,
        "budget": budget,
        **_here_and_now(),
    }


def without_files(reason: str) -> str:
    """`reason` without files of the measurement, which mean nothing to who reads it elsewhere."""
    return re.sub(rf" \((?:log: )?{re.escape(tempfile.gettempdir())}[^)]*\)", "", reason)


def _here_and_now() -> dict[str, Any]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": describe_machine(),
        "revision": revision(),
    }


def arms_of(name: str, recipe: str | Path | Recipe | None) -> tuple[Instruction, Recipe, Recipe]:
    """The instruction, and the recipe without and with it, both planned. Raises BadInput if one has no plan."""
    cls = catalogue().find(name).load()
    if recipe is None:
        beside = [catalogue().find(one).load()() for one in cls.card.evidence.beside]
        evidence = cls.card.evidence
        base = make_recipe({"kind": evidence.workload, **evidence.settings}, beside)
    else:
        base = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    own = [entry for entry in base.entries if entry.instruction.card.name == cls.card.name]
    entry = own[0] if own else Entry(cls())
    others = tuple(one for one in base.entries if one not in own)
    baseline = replace(base, entries=others)
    treatment = base if own else replace(base, entries=(*others, entry))
    for arm, made in ((BASELINE, baseline), (TREATMENT, treatment)):
        try:
            make_plan(made, situation(made))
        except BadInput as error:
            raise BadInput(f"the {arm} of {name} has no plan: {error}") from None
    return entry.instruction, baseline, treatment


def _measure_all(
    claims: Mapping[str, Claim], recipes: Mapping[str, Recipe], instruction: Instruction, setting: Setting
) -> list[Measured]:
    seeds: Seeds | None = None
    found: list[Measured] = []
    for metric, claim in claims.items():
        # What seeds have told already takes no more time.
        if (
            found
            and found[-1].ended is not None
            and (seeds is None or metric in IN_ROUNDS or metric == AFRESH)
        ):
            continue
        try:
            if metric in IN_ROUNDS:
                found.append(timed(metric, claim, recipes, setting))
            elif metric == AFRESH:
                found.append(memory(claim, recipes, setting))
            else:
                if seeds is None:
                    own = type(instruction).prove is not Instruction.prove
                    entry = {"name": instruction.card.name, "parameters": instruction.parameters()}
                    seeds = over_seeds(recipes, setting, entry if own else None)
                found.append(outcomes(metric, claim, seeds))
        except NothingMeasured as nothing:
            if nothing.ended == INTERRUPTED and not found:
                raise KeyboardInterrupt from None
            if not found:
                raise
            break
    return found
