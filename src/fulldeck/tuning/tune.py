"""`tune`: the recipe that meets a stated goal best, found by search, measured again and written down.

The result is plain JSON, kept as `result.json` beside `best.yaml` and `tuning.html`:

    best        {"trial", "recipe" (file), "metrics": {name: mean}, "intervals": {name: [low, high]}, "seeds",
                "gain": {"estimate", "interval", "ratio": true or false (a difference)}, "conditions": [{"text",
                "met", "shortfall", "interval"}]}; null where the time ended before anything was measured again
    satisfied   whether every condition is met by its interval, not only by its mean
    baseline    the recipe as it is, as best has it
    finalists   all that was measured again, as best has them
    pareto      the trials that no other equals or betters in every figure of the goal: {"trial", "figures", "meets"
                (the conditions, by the one seed of the search), "changes" (what differs from the recipe)}
    importances the share of each decision in what tells good trials from others
    tried       every trial: {"trial", "origin", "state", "rung" (of how many), "seconds", "figures" (as far as it
                came), "changes"}
    trials, trainings, reused, failures ([{"cause", "count"}]), seconds, budget, status, goal, subject_to
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fulldeck import report
from fulldeck.errors import BadInput, RunFailed
from fulldeck.evidence import store
from fulldeck.evidence.statistics import Interval
from fulldeck.figures import duration, figure
from fulldeck.files import write_json, write_text
from fulldeck.machine import describe_machine
from fulldeck.pipeline.run import situation
from fulldeck.planner import make_plan
from fulldeck.recipe.reader import read_recipe
from fulldeck.recipe.recipe import Goal, Recipe
from fulldeck.run_folder import RESULT
from fulldeck.tuning.best_recipe import best_recipe
from fulldeck.tuning.finals import Finalist, choose, finalist, pareto, plan_of
from fulldeck.tuning.goal import Aim, aim
from fulldeck.tuning.history import Trial
from fulldeck.tuning.search import Search
from fulldeck.tuning.space import MOVED_BY, Space, search_space
from fulldeck.tuning.study_folder import StudyFolder
from fulldeck.tuning.warm_start import first_trials, kept_diagnosis

SCHEMA = 1
BUDGET = 1800.0
DIAGNOSIS = 120.0
"""A budget in seconds from which on a diagnosis is worth its time."""
DIAGNOSIS_SHARE = 0.25
"""Of the budget, after which a diagnosis is given up: the rest must suffice for the search."""


def tune(
    recipe: str | Path | Recipe,
    *,
    goal: str | None = None,
    subject_to: Sequence[str] = (),
    budget: float = BUDGET,
    trials: int | None = None,
    jobs: int = 1,
    out: Path | str = "tunings",
    resume: bool = False,
    evidence: Path = store.DEFAULT,
    diagnosis: Path = Path("diagnosis"),
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Search for the recipe that meets `goal` ("minimize FIGURE", "maximize FIGURE") best, under the conditions
    `subject_to` ("accuracy >= baseline - 0.01"); what is left out is taken from the recipe's `goal:`.

    `budget` is in seconds, of all processes that worked on it; `trials` bounds how many combinations are tried; `jobs`
    is how many are carried out at once. With `resume` the newest unfinished search of the same recipe and goal below
    `out` goes on. Raises BadInput, RunFailed, KeyboardInterrupt (what is there is kept).
    """
    read = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    wanted = aim(goal, subject_to, read.goal)
    read = replace(read, goal=_as_goal(wanted))
    space = search_space(read, situation(read), wanted.objective.figure)
    make_plan(read, situation(read))
    text = read.to_yaml()
    folder = (StudyFolder.unfinished if resume else StudyFolder.create)(Path(out), read.name, text)
    began = time.monotonic()
    with folder.locked():
        search = Search(space, wanted, folder, jobs=jobs, trials=trials, tell=tell)
        search.began = began
        result: dict[str, Any] = {"run": str(folder.path), "status": "running"}
        folder.write_result(result)
        folder.point_latest()
        try:
            if not search.history.finished and budget >= DIAGNOSIS:
                limit = DIAGNOSIS_SHARE * budget - search.elapsed
                _warm(search, space, wanted, evidence, diagnosis, limit, tell)
            with search:
                status = _carry_out(search, budget)
        except KeyboardInterrupt:
            _write(search, budget, "interrupted")
            raise
        except (BadInput, RunFailed) as error:
            if not search.history.finished:
                if isinstance(error, BadInput) and "rungs" not in search.history.facts:
                    folder.discard()
                else:
                    folder.write_result(result | {"status": "failed", "error": str(error)})
                raise
            # What was found until then is worth as much as before.
            _write(search, budget, "failed", str(error))
            raise
        result = _write(search, budget, status)
        for finished in (folder.trainings, folder.trials):
            shutil.rmtree(finished, ignore_errors=True)
        return result


def _as_goal(wanted: Aim) -> Goal:
    conditions = tuple(str(one) for one in wanted.conditions)
    name = wanted.objective.figure
    if wanted.objective.direction == "minimize":
        return Goal(minimize=name, subject_to=conditions)
    return Goal(maximize=name, subject_to=conditions)


def _warm(
    search: Search,
    space: Space,
    wanted: Aim,
    evidence: Path,
    folder: Path,
    limit: float,
    tell: Callable[[str], None],
) -> None:
    """Put first what promises most. A diagnosis that is there is taken, else one is made, where it could matter.

    It is given up after `limit` seconds, which are part of the budget.
    """
    objective = wanted.objective.figure
    found = kept_diagnosis(folder, space.recipe)
    if found is None and objective in MOVED_BY and limit > 0:
        from fulldeck.diagnosis.diagnose import diagnose

        try:
            found = diagnose(
                replace(space.recipe, trackers=()), limit=limit, tell=lambda text: tell(f"diagnosis: {text}")
            )
        except (BadInput, RunFailed) as error:
            # The search can do without; if the recipe is at fault, its own run will say so.
            tell(f"diagnosis: left out: {error}")
    search.course.first = first_trials(space, objective, evidence=evidence, diagnosis=found)


def _carry_out(search: Search, budget: float) -> str:
    """Explore, then measure the best again; the status."""

    def end() -> float:
        """What measuring again will need is kept free, as far as half of the time does not suffer."""
        count, seeds, seconds = _finals(search, budget)
        return max(budget - seeds * sum(seconds[: count + 1]), budget / 2) if seconds else budget

    search.explore(end)
    history = search.history
    if history.baseline is None or history.baseline.figures is None:
        raise BadInput("the budget was spent before the recipe had run once; give it more")
    count, seeds, _ = _finals(search, budget)
    ranked = [one for one in search.ranked() if one is not history.baseline][:count]
    search.measure(
        [
            (trial, 1 + place + search.recipe.train.seed)
            for place in range(seeds)
            for trial in (history.baseline, *ranked)
        ],
        budget,
    )
    return "finished"


def _finals(search: Search, budget: float) -> tuple[int, int, list[float]]:
    """How many finalists and seeds, and the seconds of one seed: of the recipe as it is, then of the best."""
    baseline = search.history.baseline
    if baseline is None or baseline.figures is None:
        return 0, 0, []
    best = [one for one in search.ranked() if one is not baseline]
    alone = _whole_seconds(baseline)
    seconds = [_whole_seconds(one) for one in best]
    count, seeds = plan_of(budget, seconds, alone)
    return count, seeds, [alone, *(seconds or [alone] * count)]


def _whole_seconds(trial: Trial) -> float:
    """Of a trial with all of its training, in whichever trial that was done."""
    assert trial.figures is not None
    return max(trial.seconds, trial.figures["train_seconds"] + 1.0)


# The result ----------------------------------------------------------------------------------------------


def _write(search: Search, budget: float, status: str, error: str | None = None) -> dict[str, Any]:
    """result.json, best.yaml and tuning.html."""
    history, wanted, space = search.history, search.aim, search.space
    baseline = history.baseline
    measured = [] if baseline is None else [finalist(one, baseline, wanted) for one in history.trials]
    found = [one for one in measured if one is not None]
    best = choose(found, wanted) if found else None
    total = len(history.facts.get("rungs", ()))
    shared = len(history.trials) - len(history.trainings)
    causes = Counter(one.error for one in history.trials if one.error is not None)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "run": str(search.folder.path),
        "status": status,
        "recipe": space.recipe.name,
        "workload": space.recipe.workload.name,
        "goal": str(wanted.objective),
        "subject_to": [str(one) for one in wanted.conditions],
        "satisfied": best is not None and best.satisfied,
        "best": None,
        "baseline": next((_plain(one) for one in found if one.trial is baseline), None),
        "finalists": [_plain(one) for one in found],
        "pareto": [
            {
                "trial": one.number,
                "figures": one.figures,
                "meets": baseline is not None and wanted.feasible(one.figures or {}, baseline.figures or {}),
                "changes": _changes(one, space),
            }
            for one in pareto(history.finished, wanted)
        ],
        "importances": search.course.proposals.importances(),
        "tried": [_tried(one, search, total) for one in history.trials],
        "trials": len(history.trials),
        "trainings": len(history.trainings),
        "reused": shared,
        "failures": [{"cause": cause, "count": count} for cause, count in causes.most_common()],
        "exhausted": search.course.exhausted,
        "seconds": round(search.elapsed, 1),
        "budget": budget,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": describe_machine(),
    }
    if error is not None:
        result["error"] = error
    if best is not None:
        path = search.folder.best
        write_text(
            path, best_recipe(best.trial, history.finished, space, wanted, _head(result, best, wanted), path)
        )
        result["best"] = _plain(best) | {"recipe": str(path)}
    write_json(search.folder.path / RESULT, result)
    report.write_tuning(result, search.folder.page)
    return result


def _tried(trial: Trial, search: Search, total: int) -> dict[str, Any]:
    training = search.history.trainings[trial.key]
    state = "finished" if trial.figures is not None else "failed" if trial.error is not None else "stopped"
    reached = trial.figures if trial.figures is not None else (training.rungs or [{}])[-1]
    return {
        "trial": trial.number,
        "origin": trial.origin,
        "state": state,
        "why": trial.error or (training.hopeless if state == "stopped" else None),
        "rung": [len(training.rungs), total],
        "seconds": trial.seconds,
        "figures": reached,
        "changes": _changes(trial, search.space),
    }


def _changes(trial: Trial, space: Space) -> dict[str, Any]:
    """The decisions that differ from those of the recipe as it is."""
    return {key: value for key, value in trial.values.items() if space.given.get(key) != value}


def _plain(found: Finalist) -> dict[str, Any]:
    return {
        "trial": found.trial.number,
        "seeds": list(found.seeds),
        "metrics": {name: one.estimate for name, one in found.figures.items()},
        "intervals": {name: _ends(one) for name, one in found.figures.items()},
        "gain": {"estimate": found.gain.estimate, "interval": _ends(found.gain), "ratio": found.ratio},
        "conditions": [
            {
                "text": str(one.condition),
                "met": one.met,
                "shortfall": one.shortfall.estimate,
                "interval": _ends(one.shortfall),
            }
            for one in found.missed
        ],
        "satisfied": found.satisfied,
    }


def _ends(interval: Interval) -> list[float] | None:
    """Of one measurement there is no interval."""
    return [interval.low, interval.high] if interval.high != float("inf") else None


def _head(result: Mapping[str, Any], best: Finalist, wanted: Aim) -> list[str]:
    name = wanted.objective.figure
    conditions = " and ".join(map(str, wanted.conditions))
    own = best.figures[name]
    lines = [
        f"fulldeck tune {result['recipe']}: {wanted.objective}{f', subject to {conditions}' if conditions else ''}",
        f"{name} {figure(name, own.estimate)} ({figure(name, own.low)} to {figure(name, own.high)}, "
        f"{len(best.seeds)} seeds); {result['trials']} combinations in {duration(result['seconds'])}",
    ]
    if not best.satisfied:
        lines.append(f"THE GOAL IS NOT MET: {nearest(_plain(best))}")
    return lines


def nearest(found: Mapping[str, Any]) -> str:
    """How near a finalist came to the conditions that it does not meet, in words."""
    parts = []
    for one in found["conditions"]:
        if one["met"]:
            continue
        short = one["shortfall"]
        word = f"missed by {short:.4g}" if short > 0 else f"met by {-short:.4g} on average only"
        ends = one["interval"]
        spread = "of one seed" if ends is None else f"{-ends[1]:+.4g} to {-ends[0]:+.4g} beyond it"
        parts.append(f"{one['text']} is {word} ({spread})")
    return "; ".join(parts)
