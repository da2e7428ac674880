"""A stated goal: a figure to minimise or maximise, and conditions that the answer must meet."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fulldeck.errors import BadInput, closest
from fulldeck.recipe.recipe import Goal

BASELINE = "baseline"
REHEARSED = ("latency_p50_ms", "latency_p99_ms", "server_memory_bytes")
"""Figures that a rehearsal measures."""
TRAINED = ("loss", "validation_loss", "train_seconds", "training_peak_bytes", "artifact_bytes")
"""Figures that every run has, beside the metrics of its workload (on test data: `test_NAME`)."""
TIMES = ("_ms", "_seconds")
"""Endings of figures that depend on what else the machine does."""
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CONDITION = re.compile(r"\s*(?P<figure>[A-Za-z_]\w*)\s*(?P<operator><=|>=)\s*(?P<bound>.+?)\s*")
_BOUND = re.compile(
    rf"(?:(?P<alone>{_NUMBER})|(?:(?P<before>{_NUMBER})\s*\*\s*)?(?P<baseline>{BASELINE})"
    rf"(?:\s*\*\s*(?P<after>{_NUMBER}))?(?:\s*(?P<sign>[-+])\s*(?P<offset>{_NUMBER}))?)"
)


@dataclass(frozen=True)
class Objective:
    """`minimize latency_p99_ms`: one figure, and which way is better."""

    direction: Literal["minimize", "maximize"]
    figure: str

    def __str__(self) -> str:
        return f"{self.direction} {self.figure}"

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is better than `other`."""
        return one < other if self.direction == "minimize" else one > other


@dataclass(frozen=True)
class Condition:
    """`accuracy >= baseline - 0.01`: the limit is `factor` times the baseline's figure, plus `offset`."""

    text: str
    figure: str
    operator: Literal["<=", ">="]
    factor: float
    offset: float

    def __str__(self) -> str:
        return self.text

    def limit(self, baseline: Mapping[str, float]) -> float:
        """What the figure must reach, or not exceed."""
        return self.factor * (baseline[self.figure] if self.factor else 0.0) + self.offset

    def shortfall(self, figures: Mapping[str, float], baseline: Mapping[str, float]) -> float:
        """By how much the condition is missed, in the figure's unit; zero or less where it is met."""
        beyond = figures[self.figure] - self.limit(baseline)
        return beyond if self.operator == "<=" else -beyond


@dataclass(frozen=True)
class Aim:
    """The whole goal."""

    objective: Objective
    conditions: tuple[Condition, ...] = ()

    def shortfalls(self, figures: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
        """By how much each condition is missed whose figure is there; relative to its limit where that is not 0.

        So shortfalls of figures in different units can be added.
        """
        found = {}
        for one in self.conditions:
            if one.figure in figures and (one.figure in baseline or not one.factor):
                scale = abs(one.limit(baseline)) or 1.0
                found[one.text] = one.shortfall(figures, baseline) / scale
        return found

    def feasible(self, figures: Mapping[str, float], baseline: Mapping[str, float]) -> bool:
        """Whether every condition is met."""
        found = self.shortfalls(figures, baseline)
        return len(found) == len(self.conditions) and all(missed <= 0 for missed in found.values())

    def standing(self, figures: Mapping[str, float], baseline: Mapping[str, float]) -> tuple[float, ...]:
        """For sorting, the best first, as far as `figures` go: first by what is missed of the conditions, then by the
        objective; what leaves that open, by the room that the conditions leave, and by the validation loss.
        """
        missed = self.shortfalls(figures, baseline).values()
        objective = figures.get(self.objective.figure, 0.0)
        return (
            sum(max(one, 0.0) for one in missed),
            objective if self.objective.direction == "minimize" else -objective,
            sum(missed),
            figures.get("validation_loss", 0.0),
        )

    @property
    def figures(self) -> tuple[str, ...]:
        """Every figure that it names, the objective's first."""
        return tuple(dict.fromkeys((self.objective.figure, *(one.figure for one in self.conditions))))

    def check(self, known: Collection[str]) -> None:
        """Raises BadInput for a figure that a run of the recipe does not have."""
        for name in self.figures:
            if name not in known:
                hint = closest(name, known)
                if name in REHEARSED:
                    hint = "; it comes from the rehearsal of a package, and no instruction of the recipe writes one"
                raise BadInput(
                    f'a run of this recipe has no figure "{name}"{hint}; it has {", ".join(sorted(known))}'
                )


def aim(objective: str | None, conditions: Sequence[str], goal: Goal | None) -> Aim:
    """The goal that the command line states, else that of the recipe. Raises BadInput for what is no goal."""
    if objective is None:
        if goal is None or (goal.minimize is None) == (goal.maximize is None):
            raise BadInput(
                'say what to search for: --goal "minimize latency_p99_ms", or goal: with minimize or maximize '
                "in the recipe"
            )
        direction = "minimize" if goal.minimize is not None else "maximize"
        objective = f"{direction} {goal.minimize or goal.maximize}"
        conditions = [*goal.subject_to, *conditions]
    return Aim(parse_objective(objective), tuple(parse_condition(text) for text in conditions))


def parse_objective(text: str) -> Objective:
    """`minimize FIGURE` or `maximize FIGURE`. Raises BadInput."""
    words = text.split()
    if len(words) == 2:
        if words[0] == "minimize":
            return Objective("minimize", words[1])
        if words[0] == "maximize":
            return Objective("maximize", words[1])
    raise BadInput(f'a goal is "minimize FIGURE" or "maximize FIGURE", got "{text}"')


def parse_condition(text: str) -> Condition:
    """`FIGURE >= NUMBER`, `FIGURE <= baseline + NUMBER`, `FIGURE <= 0.8 * baseline`. Raises BadInput."""
    whole = _CONDITION.fullmatch(text)
    bound = _BOUND.fullmatch(whole["bound"]) if whole is not None else None
    if whole is None or bound is None:
        raise BadInput(
            f'a condition is such as "accuracy >= baseline - 0.01" or "artifact_bytes <= 1e6", got "{text}"'
        )
    operator: Literal["<=", ">="] = "<=" if whole["operator"] == "<=" else ">="
    if bound["alone"] is not None:
        return Condition(text, whole["figure"], operator, 0.0, float(bound["alone"]))
    factor = float(bound["before"] or 1) * float(bound["after"] or 1)
    offset = float(bound["offset"] or 0) * (-1 if bound["sign"] == "-" else 1)
    return Condition(text, whole["figure"], operator, factor, offset)
