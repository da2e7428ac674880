"""`verify --recipe`: what each instruction contributes in this combination, by leaving one out at a time,
and which pairs help or hurt each other, by leaving out two.

The effect of an instruction is the whole recipe against the recipe without it. The interaction of a pair is
what both do together beyond the sum of what each does alone (the difference of differences).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from fulldeck.errors import BadInput
from fulldeck.evidence.measured import MARGIN_OF_DIFFERENCE
from fulldeck.evidence.measurement import INTERRUPTED, Seeds, Setting, deadline, over_seeds
from fulldeck.evidence.statistics import MARGIN, Direction, Interval, judge, mean_interval
from fulldeck.evidence.verify import QUICK_SEEDS, SCHEMA
from fulldeck.figures import lower_is_better
from fulldeck.machine import describe_machine, revision
from fulldeck.pipeline.run import situation
from fulldeck.planner import Step, make_plan
from fulldeck.recipe.reader import read_recipe
from fulldeck.recipe.recipe import Recipe

WHOLE = "whole"
FIGURES = ("step_time_ms", "artifact_bytes")
"""Beside the task's metric; they are ratios."""
CHANGES_NOTHING_MEASURED = frozenset({"configure"})
"""An instruction that opens only these doors acts after everything that is measured here."""


def contributions(
    recipe: str | Path | Recipe,
    *,
    quick: bool = False,
    budget: float | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Leave out each instruction of `recipe`, and each pair, over shared seeds. Plain JSON.

    Pairs are measured only as far as the budget goes. Raises BadInput, RunFailed, KeyboardInterrupt.
    """
    read = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    plan = make_plan(read, situation(read))
    acting = [
        step
        for step in plan.steps
        if step.skipped is None and set(step.instruction.doors()) - CHANGES_NOTHING_MEASURED
    ]
    whole = replace(read, entries=tuple(step.entry for step in acting))
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="fulldeck-verify-"))
    setting = Setting(folder, deadline(budget), seeds=QUICK_SEEDS if quick else Setting.seeds, tell=tell)
    left_in: dict[str, str] = {}
    singles: dict[str, Recipe] = {}
    for step in acting:
        try:
            singles[step.label] = _without(whole, step)
        except BadInput as error:
            left_in[step.label] = str(error)
    alone = over_seeds({WHOLE: whole, **singles}, setting)
    if not alone.seeds:
        if alone.ended == INTERRUPTED:
            raise KeyboardInterrupt
        raise BadInput("the budget was spent before each arm had run once; give it more")
    metric = alone.metric
    ended = alone.ended
    pairs: list[dict[str, Any]] = []
    by_label = {step.label: step for step in acting}
    for one, other in combinations(singles, 2):
        if ended is not None:
            break
        try:
            without = _without(whole, by_label[one], by_label[other])
        except BadInput:
            continue
        pair = f"without {one} and {other}"
        both = over_seeds({pair: without}, setting)
        ended = both.ended
        if len(both.seeds) == len(alone.seeds):
            pairs.append(_pair(one, other, alone, both.figures[pair], metric))
    return {
        "schema": SCHEMA,
        "recipe": read.resolved(),
        "name": read.name,
        "workload": read.workload.name,
        "metric": metric,
        "seeds": len(alone.seeds),
        "instructions": [_single(label, alone, metric) for label in singles],
        "pairs": pairs,
        "left_in": left_in,
        "status": "interrupted" if ended == INTERRUPTED else "finished",
        "ended": ended,
        "samples": alone.figures,
        "seconds": round(time.monotonic() - started, 1),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": describe_machine(),
        "revision": revision(),
    }


def _without(recipe: Recipe, *steps: Step) -> Recipe:
    dropped = [step.entry for step in steps]
    left = replace(recipe, entries=tuple(entry for entry in recipe.entries if entry not in dropped))
    make_plan(left, situation(left))
    return left


def _better(metric: str) -> Direction:
    return "lower" if lower_is_better(metric) else "higher"


def _single(label: str, seeds: Seeds, metric: str) -> dict[str, Any]:
    whole, without = seeds.values(WHOLE, metric), seeds.values(label, metric)
    assert whole is not None
    assert without is not None
    gain = _interval([one - other for one, other in zip(whole, without, strict=True)])
    found: dict[str, Any] = {
        "label": label,
        metric: _plain(gain),
        "verdict": judge(gain, neutral=0.0, margin=MARGIN_OF_DIFFERENCE, better=_better(metric)),
    }
    for figure in FIGURES:
        with_it, without_it = seeds.values(WHOLE, figure), seeds.values(label, figure)
        assert with_it is not None
        assert without_it is not None
        ratio = _interval([one / other for one, other in zip(with_it, without_it, strict=True)])
        found[figure] = _plain(ratio) | {
            "verdict": judge(ratio, neutral=1.0, margin=MARGIN, better="lower"),
        }
    return found


def _pair(
    one: str, other: str, alone: Seeds, both: Sequence[Mapping[str, float]], metric: str
) -> dict[str, Any]:
    rows = zip(alone.figures[WHOLE], alone.figures[one], alone.figures[other], both, strict=True)
    together = _interval([w[metric] - a[metric] - b[metric] + n[metric] for w, a, b, n in rows])
    verdict = judge(together, neutral=0.0, margin=MARGIN_OF_DIFFERENCE, better=_better(metric))
    return {"labels": [one, other], "interaction": _plain(together), "verdict": verdict}


def _interval(values: list[float]) -> Interval:
    """Of equal values nothing is uncertain."""
    return mean_interval(values) if len(set(values)) > 1 else Interval(values[0], values[0], values[0])


def _plain(interval: Interval) -> dict[str, Any]:
    return {"estimate": interval.estimate, "interval": [interval.low, interval.high]}
