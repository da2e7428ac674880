"""What to try next: Optuna's tree-structured Parzen estimator, told all that the history knows.

The study is made anew from the history each time, so a search that was killed proposes what it would have. Trials that
stopped at a rung count by how they stand there (Optuna ranks them below those that went further), trials that break a
condition below all that keep to it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fulldeck.errors import BadInput, extra
from fulldeck.tuning.goal import Aim
from fulldeck.tuning.halving import Halving
from fulldeck.tuning.history import History, Trial
from fulldeck.tuning.space import Choice, Space, Values

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

TRIES = 40
"""Proposals that are known or impossible, until the search counts as exhausted; the second half are drawn at random."""
STARTUP = 6
"""Trials that are drawn at random before there is anything to learn from."""


Standings = list[list[str]]
"""The trainings that have reached each rung, the best first."""


class Proposals:
    """New decisions for a search."""

    def __init__(self, space: Space, history: History, aim: Aim, seed: int) -> None:
        self.optuna = extra("optuna", "tune")
        self.optuna.logging.set_verbosity(self.optuna.logging.ERROR)
        self.space = space
        self.history = history
        self.aim = aim
        self.seed = seed
        self.refused: set[str] = set()
        """Combinations that the planner has thrown out."""
        self.used_up: set[str] = set()
        """Trainings on which everything has been tried."""

    def next(self, halving: Halving) -> dict[str, Any] | None:
        """Decisions that are new and have a plan; None if none could be found.

        Every other proposal is about what comes after the best training that is there, as long as that leaves
        anything to decide: such a trial costs no training.
        """
        standing = [halving.standings(rung) for rung in range(halving.count)]
        shared = self._best_training(standing[-1]) if len(self.history.trials) % 2 else None
        if shared is not None and (fixed := _text(shared)) not in self.used_up:
            if (found := self._try(shared, standing)) is not None:
                return found
            self.used_up.add(fixed)
        return self._try({}, standing)

    def importances(self) -> dict[str, float]:
        """The share of each decision in what tells good trials from others (PED-ANOVA), the largest first."""
        study = self._study(self.optuna.samplers.RandomSampler(), None)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found: dict[str, float] = self.optuna.importance.get_param_importances(study)
        except (ValueError, RuntimeError):
            # Too few trials, or all alike.
            return {}
        return found

    def _best_training(self, whole: list[str]) -> dict[str, Any] | None:
        """The decisions that the best whole training depends on."""
        if not self.space.after_training:
            return None
        for key in whole[:1]:
            trial = next(one for one in self.history.trials if one.key == key)
            return {key: v for key, v in trial.values.items() if key not in self.space.after_training}
        return None

    def _try(self, fixed: Values, standing: Standings) -> dict[str, Any] | None:
        known = {_text(trial.values) for trial in self.history.trials} | self.refused
        for attempt in range(TRIES):
            seed = self.seed + 1000 * len(self.history.trials) + attempt
            values = self._sample(fixed, standing, seed, at_random=attempt >= TRIES // 2)
            if (text := _text(values)) in known:
                continue
            try:
                self._check(values)
            except BadInput:
                known.add(text)
                self.refused.add(text)
                continue
            return values
        return None

    def _check(self, values: Values) -> None:
        from fulldeck.pipeline.run import situation
        from fulldeck.planner import make_plan

        recipe = self.space.build(values)
        make_plan(recipe, situation(recipe))

    def _sample(self, fixed: Values, standing: Standings, seed: int, *, at_random: bool) -> dict[str, Any]:
        samplers = self.optuna.samplers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = (
                samplers.RandomSampler(seed=seed)
                if at_random
                else samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=STARTUP)
            )
            if fixed:
                own = {choice.key: self._code(choice, fixed[choice.key]) for choice in self._decided(fixed)}
                sampler = samplers.PartialFixedSampler(own, sampler)
            study = self._study(sampler, standing)
            trial = study.ask()
            values: dict[str, Any] = {}
            for choice in self.space.choices:
                if choice.instruction is not None and not self.space.used(choice.instruction, values):
                    continue
                if fixed and choice.key not in fixed and choice.key not in self.space.after_training:
                    continue
                if choice.options:
                    codes = [json.dumps(one) for one in choice.options]
                    values[choice.key] = json.loads(trial.suggest_categorical(choice.key, codes))
                else:
                    values[choice.key] = trial.suggest_float(
                        choice.key, choice.low, choice.high, log=choice.log
                    )
        return values

    def _decided(self, values: Values) -> list[Choice]:
        return [one for one in self.space.choices if one.key in values and one.holds(values[one.key])]

    def _study(self, sampler: Any, standing: Standings | None) -> Study:
        """All trials; those that have not ended only where it is said how they stand at each rung."""
        study: Study = self.optuna.create_study(direction=self.aim.objective.direction, sampler=sampler)
        told = (self._told(trial, standing) for trial in self.history.trials)
        study.add_trials([one for one in told if one is not None])
        return study

    def _told(self, trial: Trial, standing: Standings | None) -> FrozenTrial | None:
        """A trial as Optuna has it. One that failed counts as one that stopped before the first rung."""
        state = self.optuna.trial.TrialState
        told: dict[str, Any] = {"params": {}, "distributions": {}}
        for choice in self._decided(trial.values):
            told["params"][choice.key] = self._code(choice, trial.values[choice.key])
            told["distributions"][choice.key] = self._distribution(choice)
        create: Callable[..., FrozenTrial] = self.optuna.trial.create_trial
        baseline = self.history.baseline
        level = self.history.level(trial.key)
        if trial.figures is not None and baseline is not None and baseline.figures is not None:
            missed = self.aim.shortfalls(trial.figures, baseline.figures)
            value = trial.figures[self.aim.objective.figure]
            return create(state=state.COMPLETE, value=value, constraints=missed, **told)
        if standing is None:
            return None
        if trial.open and level == 0:
            return create(state=state.RUNNING, **told)
        reached = {}
        if trial.open:
            place = standing[level - 1].index(trial.key)
            reached[level] = float(place if self.aim.objective.direction == "minimize" else -place)
        return create(state=state.PRUNED, intermediate_values=reached, **told)

    def _distribution(self, choice: Choice) -> BaseDistribution:
        distributions = self.optuna.distributions
        if choice.options:
            found: BaseDistribution = distributions.CategoricalDistribution(
                [json.dumps(one) for one in choice.options]
            )
            return found
        found = distributions.FloatDistribution(choice.low, choice.high, log=choice.log)
        return found

    def _code(self, choice: Choice, value: Any) -> Any:
        return json.dumps(value) if choice.options else float(value)


def _text(values: Values) -> str:
    return json.dumps(values, sort_keys=True)
