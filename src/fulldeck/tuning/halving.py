"""What to do next: successive halving over shares of a training, asynchronously.

A training stops at each rung (a ninth of its steps, a third, all) until it belongs to the best third of those that
have come as far; then it goes on where it stopped (Li et al. 2020, "A System for Massively Parallel Hyperparameter
Tuning", arXiv:1810.05934). Rungs below one epoch have seen a share of the data only. What halves are trainings, not
trials: a trial whose training is there already costs only what comes after it.

Not every rung foretells the end: a training whose learning rate still has to fall looks worse than it is. So the first
trainings, and every sixth later on, are not stopped, and a rung stops others only as long as those show that it knows
the best ones (`Halving.foretells`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fulldeck.tuning.goal import Aim, Condition
from fulldeck.tuning.history import History, Training, Trial

ETA = 3
MOST_RUNGS = 4
LEAST_STEPS = 20
"""Optimizer steps below which a training says nothing."""
FIRST, EVERY = 5, 6
"""The first trials, and then every sixth, are never stopped: they tell what rungs are worth."""
FORESEEN = 0.8
"""Share of the pairs with one of the best third in them that a rung must have in the order of the end."""
CURVES = 3
"""So many whole trainings tell how much one may still gain."""
GENEROUS = 1.5
"""A training is hopeless if even so many times the largest gain seen would not do."""
SLACK = 1.1
"""Of limits on time, which wavers."""


def rungs(steps: int) -> tuple[float, ...]:
    """The shares of a training of so many steps at which it is judged; the last one is 1."""
    count = 1
    while count < MOST_RUNGS and steps / ETA**count >= LEAST_STEPS:
        count += 1
    return tuple(ETA ** -(count - 1 - place) for place in range(count))


@dataclass(frozen=True)
class Job:
    """Take `trial` on until its training has reached `rung` (from 0); with the last one, to the end."""

    trial: Trial
    rung: int
    last: bool


class Halving:
    """Decides from the history alone, so a search that was killed decides as it would have."""

    def __init__(self, history: History, aim: Aim, count: int) -> None:
        self.history = history
        self.aim = aim
        self.count = count
        """Of rungs."""

    def next(self, busy: Collection[str]) -> Job | None:
        """The next job among the trials that there are, or None if there should be new ones. `busy` are the trainings
        that are being worked on.
        """
        free = [
            one for one in self.history.trials if one.open and one.key not in busy and not self._given_up(one)
        ]
        trained = [one for one in free if self.history.level(one.key) == self.count]
        if trained:
            return self._job(trained[0], self.count - 1)
        waiting = {one.key: one for one in reversed(free)}
        for rung in range(self.count - 2, -1, -1):
            standing = self.standings(rung)
            passing = len(standing) // ETA if self.foretells(rung) else len(standing)
            for place, key in enumerate(standing):
                if key not in waiting or self.history.level(key) != rung + 1:
                    continue
                if place < passing or not _may_stop(waiting[key].number):
                    return self._job(waiting[key], rung + 1)
        for key, trial in waiting.items():
            if self.history.level(key) == 0:
                return self._job(trial, 0)
        return None

    def last(self, busy: Collection[str]) -> Job | None:
        """Where there are to be no new trials: the best that stopped goes on, the furthest first."""
        for rung in range(self.count - 2, -1, -1):
            for key in self.standings(rung):
                for trial in self.history.trials:
                    if (
                        trial.key == key
                        and trial.open
                        and self.history.level(key) == rung + 1
                        and key not in busy
                        and not self._given_up(trial)
                    ):
                        return self._job(trial, rung + 1)
        return None

    def standings(self, rung: int) -> list[str]:
        """The trainings that have reached `rung`, the best first."""
        limits = self._limits()
        found = [one for one in self.history.trainings.values() if len(one.rungs) > rung]
        found.sort(key=lambda one: (one.hopeless is not None, self.aim.standing(one.rungs[rung], limits)))
        return [one.key for one in found]

    def foretells(self, rung: int) -> bool:
        """Whether trainings that were not stopped stood at `rung` nearly as they ended, as far as the best go."""
        limits = self._limits()
        keys = dict.fromkeys(one.key for one in self.history.trials if not _may_stop(one.number))
        whole = [one for one in self._whole() if one.key in keys]
        if len(whole) <= FIRST:
            return False
        whole.sort(key=lambda one: self.aim.standing(one.rungs[-1], limits))
        then = [self.aim.standing(one.rungs[rung], limits) for one in whole]
        pairs = [
            then[better] <= then[other]
            for better in range(len(whole) // ETA)
            for other in range(better + 1, len(whole))
        ]
        return sum(pairs) >= FORESEEN * len(pairs)

    def why_hopeless(self, key: str, figures: Mapping[str, float]) -> str | None:
        """Why a training with these `figures` cannot meet a condition any more, or None.

        Whole trainings show how much a figure may still gain after a rung; what has been spent does not come back.
        """
        limits = self._limits()
        level = self.history.level(key)
        for condition in self.aim.conditions:
            if condition.figure not in figures or (condition.factor and condition.figure not in limits):
                continue
            limit, value = condition.limit(limits), figures[condition.figure]
            gain = self._gain(condition, level)
            if gain is None:
                continue
            better = value + gain if condition.operator == ">=" else value - gain
            if (better < limit) if condition.operator == ">=" else (better > limit * SLACK):
                most = f"no other gained more than {gain / GENEROUS:.4g} from there"
                return f"{condition}: it is at {value:.4g}, and {most}"
        return None

    def _gain(self, condition: Condition, level: int) -> float | None:
        """The most that a figure may still move in the condition's favour; None: unknown."""
        if condition.figure in ("train_seconds", "training_peak_bytes"):
            return 0.0
        if level == 0:
            return None
        sign = 1 if condition.operator == ">=" else -1
        gains = [
            sign * (one.rungs[-1][condition.figure] - one.rungs[level - 1][condition.figure])
            for one in self._whole()
            if condition.figure in one.rungs[-1] and condition.figure in one.rungs[level - 1]
        ]
        return GENEROUS * max(0.0, *gains) if len(gains) >= CURVES else None

    def _whole(self) -> list[Training]:
        return [one for one in self.history.trainings.values() if len(one.rungs) == self.count]

    def _limits(self) -> Mapping[str, float]:
        """The figures of the recipe as it is."""
        baseline = self.history.baseline
        if baseline is None:
            return {}
        if baseline.figures is not None:
            return baseline.figures
        reached = self.history.trainings[baseline.key].rungs
        return reached[-1] if reached else {}

    def _given_up(self, trial: Trial) -> bool:
        return self.history.trainings[trial.key].hopeless is not None

    def _job(self, trial: Trial, rung: int) -> Job:
        return Job(trial, rung, rung == self.count - 1)


def _may_stop(number: int) -> bool:
    """Whether the trial of this number may be stopped at a rung."""
    return number > FIRST and number % EVERY != 0
