"""The search itself: who works on what, until the time is up or nothing is left to try."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from fulldeck.device import cpu_threads
from fulldeck.errors import RunFailed
from fulldeck.figures import duration, figure
from fulldeck.files import write_text
from fulldeck.pipeline.run import situation
from fulldeck.planner import Plan, make_plan
from fulldeck.recipe.recipe import Recipe
from fulldeck.tuning.course import Course
from fulldeck.tuning.goal import REHEARSED, TIMES, TRAINED, Aim
from fulldeck.tuning.halving import rungs
from fulldeck.tuning.history import History, Trial
from fulldeck.tuning.space import Space, Values
from fulldeck.tuning.study_folder import StudyFolder
from fulldeck.tuning.trained import content_key
from fulldeck.tuning.worker import Answer, Worker, Workers, order

SAME_CAUSE = 5
"""So many trials in a row that fail for one cause end the search."""
WAIT_SECONDS = 0.5
ATTEMPTS = 2
"""A process that dies, without a word, may have had bad luck once."""
FRESH = {"training_peak_bytes", "train_seconds"}
"""Figures of which a process that has trained before says something else than one that has not."""


@dataclass
class Work:
    """What a process is doing. `seed` is set where a finalist is measured again."""

    trial: Trial
    rung: int
    started: float
    seed: int | None = None
    attempt: int = 1


class Search:
    """One search in its folder. `deadline` is a moment of `time.monotonic`."""

    def __init__(
        self,
        space: Space,
        aim: Aim,
        folder: StudyFolder,
        *,
        jobs: int = 1,
        trials: int | None = None,
        first: list[tuple[Values, str]] | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.space = space
        self.recipe = replace(space.recipe, trackers=())
        self.aim = aim
        self.folder = folder
        self.jobs = jobs
        self.tell = tell
        self.history = History(content_of(space.recipe), folder.journal)
        self.before = self.history.elapsed
        self.began = time.monotonic()
        self.in_a_row: list[str] = []
        self.work: dict[Worker, Work] = {}
        self.idle: list[Worker] = []
        self.course = Course(
            space,
            self.history,
            aim,
            lambda values: content_key(self.plan(space.build(values))),
            first=first,
            most=trials,
            seed=self._seed,
        )

    @property
    def elapsed(self) -> float:
        """Seconds that the search has taken, in all its processes."""
        return self.before + time.monotonic() - self.began

    def __enter__(self) -> Self:
        self.workers = Workers(self.folder.path / "log.txt").__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.workers.__exit__(kind, error, trace)

    # What is worked on -------------------------------------------------------------------------------

    def explore(self, end: Callable[[], float]) -> None:
        """Try out decisions until `end()` (in seconds since the beginning) or until nothing is left.

        Raises BadInput for a goal that names no figure of the recipe, RunFailed where the recipe itself fails, or all
        trials do for one cause.
        """
        self._work(self._next, lambda: self.elapsed >= end(), self.jobs)

    def measure(self, finalists: list[tuple[Trial, int]], end: float) -> None:
        """Carry out trials with other seeds, in this order, until `end`. Where times count, one after the other."""
        waiting = [(trial, seed) for trial, seed in finalists if seed not in trial.finals]

        def following() -> Work | None:
            for pair in waiting:
                trial, seed = pair
                if not any(one.trial.key == trial.key and one.seed == seed for one in self.work.values()):
                    waiting.remove(pair)
                    return Work(trial, 0, self.elapsed, seed)
            return None

        timed = any(name.endswith(TIMES) for name in self.aim.figures)
        self._work(following, lambda: self.elapsed >= end, 1 if timed else self.jobs)

    def _work(self, following: Callable[[], Work | None], over: Callable[[], bool], jobs: int) -> None:
        while not over():
            while len(self.work) < jobs and (work := following()) is not None:
                self._assign(work, jobs)
            if not self.work:
                return
            for worker, answer in self.workers.answers(WAIT_SECONDS):
                self.history.elapsed = self.elapsed
                if worker in self.work:
                    self._hear(worker, answer, jobs)
            self._say()
        for worker in list(self.work):
            del self.work[worker]
            self.workers.end(worker)

    def _next(self) -> Work | None:
        self.history.elapsed = self.elapsed
        self.course.begin()
        if "rungs" not in self.history.facts:
            baseline = self.history.baseline
            # Until the recipe has told about itself nobody else begins; after a kill it has to tell again.
            return None if self.work or baseline is None else Work(baseline, 0, self.elapsed)
        job = self.course.next({work.trial.key for work in self.work.values()})
        return None if job is None else Work(job.trial, job.rung, self.elapsed)

    def plan(self, recipe: Recipe) -> Plan:
        """As a trial carries it out: with the seed of the recipe, and no trackers."""
        bare = replace(recipe, trackers=(), search=None, goal=None)
        return make_plan(bare, situation(bare))

    def _place(self, work: Work) -> Path:
        """Where a process works."""
        again = "" if work.seed is None else f"-seed-{work.seed}"
        return self.folder.trials / f"{work.trial.number:04d}{again}"

    @property
    def _seed(self) -> int:
        return self.recipe.train.seed

    # Processes ---------------------------------------------------------------------------------------

    def _assign(self, work: Work, jobs: int) -> None:
        worker = self.idle.pop() if self.idle else self.workers.start()
        self.work[worker] = work
        file = self._place(work) / f"{self.recipe.name}.yaml"
        shutil.rmtree(file.parent, ignore_errors=True)
        file.parent.mkdir(parents=True)
        write_text(file, self.plan(self.space.build(work.trial.values)).recipe.to_yaml())
        seed = self._seed if work.seed is None else work.seed
        threads = None if jobs == 1 or self.recipe.train.threads else max(1, cpu_threads() // jobs)
        worker.send(order(file, seed, threads, file.parent, self.folder.trainings))

    def _hear(self, worker: Worker, answer: Answer, jobs: int) -> None:
        work = self.work[worker]
        trial = work.trial
        if "steps" in answer:
            worker.send(self._introduced(work, answer))
        elif "trained" in answer:
            if work.seed is None:
                self._fill(trial, answer["trained"])
        elif "finished" in answer:
            seconds = self.elapsed - work.started
            self.in_a_row.clear()
            if work.seed is None:
                self.history.finish(trial.number, answer["finished"], round(seconds, 3))
            else:
                self.history.measure(trial.number, work.seed, answer["finished"])
            self._free(worker)
        elif "figures" in answer:
            worker.send("go" if work.seed is not None else self._decide(work, answer))
        elif "paused" in answer or "stopped" in answer:
            self._free(worker)
        elif "error" in answer:
            self._failed(work, answer["error"])
            self._free(worker)
        elif "died" in answer:
            del self.work[worker]
            self.workers.end(worker)
            if work.attempt < ATTEMPTS:
                work.attempt += 1
                self._assign(work, jobs)
            else:
                self._failed(work, f"{answer['died']}, twice")

    def _introduced(self, work: Work, answer: Answer) -> str:
        """The first words of a trial, and the reply. The recipe as it is says what there is to search for."""
        facts = self.history.facts
        # What a process takes to start is not the trial's.
        work.started = self.elapsed
        if "rungs" not in facts:
            names = [*answer["figures"], *(f"test_{name}" for name in answer["figures"]), *TRAINED]
            if any("package" in step.instruction.card.touches for step in self.plan(self.recipe).steps):
                names += REHEARSED
            self.aim.check(names)
            self.history.tell(rungs=rungs(answer["steps"]), judged=answer["judged"], steps=answer["steps"])
            work.rung = len(facts["rungs"]) - 1
        if answer["judged"] != facts["judged"] and work.seed is None:
            self._failed(work, "it would be judged on other rows than the recipe as it is")
            return "stop"
        # The end of the training is told in any case.
        left = facts["rungs"][self.history.level(work.trial.key) : -1]
        return json.dumps(list(left) if work.seed is None else [])

    def _decide(self, work: Work, answer: Answer) -> str:
        trial = work.trial
        baseline = trial is self.history.baseline
        if (
            not baseline
            and (why := self.course.halving.why_hopeless(trial.key, answer["figures"])) is not None
        ):
            self.history.give_up(trial.key, why)
            return "stop"
        if "rung" not in answer:
            return "go"
        self.in_a_row.clear()
        self.history.reached(trial.key, answer["figures"])
        if self.history.level(trial.key) <= work.rung or baseline:
            return "go"
        others = {one.trial.key for one in self.work.values()} - {trial.key}
        job = self.course.halving.next(others)
        if job is not None and job.trial.key == trial.key:
            work.rung = job.rung
            return "go"
        return "pause"

    def _fill(self, trial: Trial, figures: Mapping[str, float]) -> None:
        """A training has ended, maybe before some rung was due."""
        while self.history.level(trial.key) < len(self.history.facts["rungs"]):
            self.history.reached(trial.key, figures)

    def _free(self, worker: Worker) -> None:
        work = self.work.pop(worker)
        shutil.rmtree(self._place(work), ignore_errors=True)
        if FRESH & set(self.aim.figures):
            self.workers.end(worker)
        else:
            self.idle.append(worker)

    def _failed(self, work: Work, error: str) -> None:
        if work.seed is not None:
            # One bad seed is no measurement; the others tell.
            self.tell(f"trial {work.trial.number} with seed {work.seed}: {error}")
            return
        self.history.fail(work.trial.number, error)
        if work.trial is self.history.baseline:
            raise RunFailed(f"the recipe as it is fails, so there is nothing to search from: {error}")
        cause = re.sub(r"\d+", "#", error)
        self.in_a_row = [*(one for one in self.in_a_row if one == cause), cause]
        if len(self.in_a_row) >= SAME_CAUSE:
            raise RunFailed(f"{len(self.in_a_row)} trials in a row failed for one cause: {error}")

    # Words -------------------------------------------------------------------------------------------

    def _say(self) -> None:
        history = self.history
        done, tried = len(history.finished), len(history.trials)
        words = f"{duration(self.elapsed)}, {tried} tried, {done} to the end, {len(self.work)} running"
        if (best := self.leader()) is not None and best.figures is not None:
            figures = (f"{name} {figure(name, best.figures[name])}" for name in self.aim.figures)
            words += f"; best so far: trial {best.number}, {', '.join(figures)}"
        self.tell(words)

    def leader(self) -> Trial | None:
        """The best trial that has ended, by one seed."""
        ranked = self.ranked()
        return ranked[0] if ranked else None

    def ranked(self) -> list[Trial]:
        """The trials that have ended, the best first."""
        baseline = self.history.baseline
        if baseline is None or (limits := baseline.figures) is None:
            return []
        return sorted(
            self.history.finished, key=lambda one: (self.aim.standing(one.figures or {}, limits), one.number)
        )


def content_of(recipe: Recipe) -> str:
    """A hash of a recipe with its goal."""
    return hashlib.sha256(recipe.to_yaml().encode()).hexdigest()[:24]
