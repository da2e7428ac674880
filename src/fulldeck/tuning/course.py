"""The course of a search: the recipe as it is, then what promises most, then what the sampler proposes, halved."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from fulldeck.errors import BadInput
from fulldeck.tuning.goal import Aim
from fulldeck.tuning.halving import Halving, Job
from fulldeck.tuning.history import History
from fulldeck.tuning.proposals import Proposals
from fulldeck.tuning.space import Space, Values

FRUITLESS = 20
"""So many proposals in a row that give nothing to do, until there is nothing to do."""
FINALISTS = 3
"""So many trials are carried to their end, beside the recipe as it is, if there are to be no new ones."""


class Course:
    """What is to be done next, from the history alone.

    `key_of` gives the hash of the training that decisions need; `first` are decisions to begin with, each with where it
    comes from; `most` bounds the number of trials.
    """

    def __init__(
        self,
        space: Space,
        history: History,
        aim: Aim,
        key_of: Callable[[Values], str],
        *,
        first: list[tuple[Values, str]] | None = None,
        most: int | None = None,
        seed: int = 0,
    ) -> None:
        self.space = space
        self.history = history
        self.aim = aim
        self.key_of = key_of
        self.first = list(first or [])
        self.most = most
        self.proposals = Proposals(space, history, aim, seed)
        self.exhausted = False

    def begin(self) -> None:
        """Make the recipe as it is the first trial, if it is not there yet."""
        if not self.history.trials:
            self.history.add(self.space.given, self.key_of(self.space.given), "the recipe as it is")

    def next(self, busy: Collection[str]) -> Job | None:
        """The next job, or None; `busy` are the trainings that are being worked on."""
        history, halving = self.history, self.halving
        baseline = history.trials[0]
        if baseline.open and baseline.key not in busy:
            return Job(baseline, halving.count - 1, True)
        if (job := halving.next(busy)) is not None:
            return job
        for _ in range(FRUITLESS):
            if self.exhausted or (self.most is not None and len(history.trials) >= self.most):
                break
            self._propose(halving)
            if (job := halving.next(busy)) is not None:
                return job
            if history.trials[-1].key in busy:
                break
            # What was proposed shares a training that has stopped, so another one.
        ended = [one for one in history.finished if one is not baseline]
        return halving.last(busy) if len(ended) < FINALISTS else None

    @property
    def halving(self) -> Halving:
        """As the rungs of the recipe as it is have it."""
        return Halving(self.history, self.aim, len(self.history.facts["rungs"]))

    def _propose(self, halving: Halving) -> None:
        known: list[Any] = [trial.values for trial in self.history.trials]
        while self.first:
            values, origin = self.first.pop(0)
            if dict(values) in known:
                continue
            try:
                self._add(values, origin)
            except BadInput:
                # What was advised does not fit after all.
                continue
            return
        found = self.proposals.next(halving)
        if found is None:
            self.exhausted = True
        else:
            self._add(found, "sampled")

    def _add(self, values: Values, origin: str) -> None:
        self.history.add(values, self.key_of(values), origin)
