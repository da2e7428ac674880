"""The best of a search measured again, with seeds that nothing was chosen by: intervals, not points, meet the goal.

The search saw validation data only, so finalists are judged on test data, where there are any. Figures are paired by
seed with those of the recipe as it is: what a seed does to both alike is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fulldeck.evidence.statistics import Interval, mean_interval
from fulldeck.tuning.goal import Aim, Condition
from fulldeck.tuning.history import Figures, Trial

PLANS = ((3, 5), (2, 5), (2, 3), (1, 3))
"""So many finalists over so many seeds, as the time allows."""
SHARE = 0.4
"""Of the budget, at most, for measuring again."""
TEST = "test_"


@dataclass(frozen=True)
class Missed:
    """How a condition stands: `shortfall` is above 0 where it is missed, in the figure's unit."""

    condition: Condition
    shortfall: Interval

    @property
    def met(self) -> bool:
        """Whether the whole interval keeps to it."""
        return self.shortfall.high <= 0


@dataclass(frozen=True)
class Finalist:
    """A trial over its seeds. `gain` compares its objective with the recipe's own, seed by seed: a ratio where both
    are positive, else a difference."""

    trial: Trial
    seeds: tuple[int, ...]
    figures: Mapping[str, Interval]
    missed: tuple[Missed, ...]
    gain: Interval
    ratio: bool

    @property
    def satisfied(self) -> bool:
        """Whether every condition is met, by its interval."""
        return all(one.met for one in self.missed)


def plan_of(budget: float, seconds: Sequence[float], baseline: float) -> tuple[int, int]:
    """How many finalists and seeds fit into their share of the `budget`; `seconds` are those of whole trials, the best
    first, `baseline` those of the recipe as it is."""
    for finalists, seeds in PLANS:
        candidates = list(seconds[:finalists]) or [baseline] * finalists
        if seeds * (baseline + sum(candidates)) <= SHARE * budget:
            return finalists, seeds
    return PLANS[-1]


def judged(figures: Mapping[str, float]) -> Figures:
    """Figures with those of test data in the place of those of validation data."""
    plain = {name: value for name, value in figures.items() if not name.startswith(TEST)}
    return plain | {
        name.removeprefix(TEST): value for name, value in figures.items() if name.startswith(TEST)
    }


def finalist(trial: Trial, baseline: Trial, aim: Aim) -> Finalist | None:
    """What is known of `trial` over the seeds that it shares with the `baseline`; None where there are none."""
    seeds = tuple(sorted(set(trial.finals) & set(baseline.finals)))
    if not seeds:
        return None
    own = [judged(trial.finals[seed]) for seed in seeds]
    there = [judged(baseline.finals[seed]) for seed in seeds]
    names = [name for name in own[0] if all(name in one for one in own)]
    figures = {name: interval([one[name] for one in own]) for name in names}
    missed = tuple(
        Missed(
            condition,
            interval([condition.shortfall(one, base) for one, base in zip(own, there, strict=True)]),
        )
        for condition in aim.conditions
    )
    name = aim.objective.figure
    pairs = [(one[name], base[name]) for one, base in zip(own, there, strict=True)]
    ratio = all(value > 0 for pair in pairs for value in pair)
    gain = interval([one / base if ratio else one - base for one, base in pairs])
    return Finalist(trial, seeds, figures, missed, gain, ratio)


def interval(values: Sequence[float]) -> Interval:
    """The mean with its interval; of equal values, of which there are several, nothing is uncertain."""
    if len(values) > 1 and len(set(values)) == 1:
        return Interval(values[0], values[0], values[0])
    return mean_interval(values)


def choose(found: Sequence[Finalist], aim: Aim) -> Finalist:
    """The best of those that meet the goal; where none does, the one that comes nearest."""
    good = [one for one in found if one.satisfied]
    sign = 1 if aim.objective.direction == "minimize" else -1
    if good:
        return min(good, key=lambda one: sign * one.figures[aim.objective.figure].estimate)
    return min(found, key=lambda one: sum(max(_relative(missed), 0.0) for missed in one.missed))


def _relative(missed: Missed) -> float:
    """A shortfall in units of what the condition speaks of."""
    scale = abs(missed.condition.offset) or 1.0
    high = missed.shortfall.high
    return (high if abs(high) != float("inf") else missed.shortfall.estimate) / scale


def pareto(trials: Sequence[Trial], aim: Aim) -> list[Trial]:
    """The trials that no other one equals or betters in every figure of the goal, the best in its objective first.

    Of a goal of one figure only, the seconds of training are the other.
    """
    names = aim.figures if len(aim.figures) > 1 else (*aim.figures, "train_seconds")
    signs = {name: sign_of(name, aim) for name in names}

    def cost(trial: Trial) -> tuple[float, ...]:
        assert trial.figures is not None
        return tuple(signs[name] * trial.figures[name] for name in names)

    costs = {trial.number: cost(trial) for trial in trials if trial.figures is not None}
    front = [
        trial
        for trial in trials
        if trial.number in costs
        and not any(
            other != costs[trial.number]
            and all(one <= own for one, own in zip(other, costs[trial.number], strict=True))
            for other in costs.values()
        )
    ]
    unique = {costs[trial.number]: trial for trial in reversed(front)}
    return [unique[key] for key in sorted(unique)]


def sign_of(name: str, aim: Aim) -> int:
    """1 where a figure should be small, -1 where it should be large, as the goal has it."""
    if name == aim.objective.figure:
        return 1 if aim.objective.direction == "minimize" else -1
    for condition in aim.conditions:
        if condition.figure == name:
            return 1 if condition.operator == "<=" else -1
    return 1
