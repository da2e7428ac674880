"""Requests that wait for an engine: bounded, first come first served, joined to batches, answered in time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import ceil, inf
from time import monotonic

from fulldeck.serving.batch_times import BatchTimes
from fulldeck.serving.http import Refusal
from fulldeck.serving.wire import Tensors

Done = Callable[["Tensors | Exception"], None]
"""What is told the outputs, or why there are none."""
CALLS, LEAST_WAIT_SECONDS = 8, 0.05
"""How many calls of the engine a job may wait for unless something else is said, and for how long at least."""
TICK_SECONDS = 0.01
"""How often it is looked whose deadline has passed."""


class Job:
    """One request's tensors, and who is told the answer."""

    __slots__ = ("alone", "deadline", "done", "inputs", "over", "queued", "rows", "shapes", "since")

    def __init__(self, inputs: Tensors, deadline: float, done: Done) -> None:
        self.inputs = inputs
        self.deadline = deadline
        self.done = done
        self.rows = len(next(iter(inputs.values())))
        self.shapes = [array.shape[1:] for array in inputs.values()]
        """Those behind the first axis; jobs with equal ones can be rows of one batch."""
        self.alone = False
        self.since = monotonic()
        self.queued = True
        self.over = False
        """Nobody waits any more."""

    def succeed(self, outputs: Tensors) -> None:
        """Answer, unless nobody waits any more."""
        if not self.over:
            self.over = True
            self.done(outputs)

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless nobody waits any more."""
        if not self.over:
            self.over = True
            self.done(error)


class JobQueue:
    """At most `limit` waiting jobs, taken in batches of at most `largest` rows.

    `largest` 1 joins nothing: every job is run by itself, with the rows that it has. `times` say what a batch
    takes. With `longest_wait`, a job that is expected to wait for more seconds is refused; 0 stands for
    CALLS calls of the engine. `wake` is called after a job has come, `engines` says how many run batches.
    """

    def __init__(
        self,
        limit: int,
        max_batch: int,
        *,
        largest: int,
        times: BatchTimes,
        longest_wait: float | None = None,
    ) -> None:
        self.limit = limit
        self.max_batch = max_batch
        """Most rows of one job."""
        self.largest = largest
        self.times = times
        self.longest_wait = longest_wait
        self.wake: Callable[[], None] = lambda: None
        self.engines: Callable[[], int] = lambda: 1
        self._waiting: deque[Job] = deque()
        self._live = 0
        self.rows = 0
        """Rows that wait."""
        self._running: set[Job] = set()
        self._waited = 0.0

    def __len__(self) -> int:
        return self._live

    @property
    def idle(self) -> bool:
        """Whether no job waits or runs."""
        return not self._live and not self._running

    def waited_seconds(self) -> float:
        """Time that jobs have waited so far, together; how fast it grows is the mean length of the queue."""
        now = monotonic()
        return self._waited + sum(now - job.since for job in self._waiting if job.queued)

    def expected_wait(self) -> float:
        """Seconds that one more job is expected to wait."""
        return self.times.drain(self.rows, self.largest) / max(1, self.engines()) if self.rows else 0.0

    def admit(self, deadline: float = inf) -> None:
        """Raises Refusal (429) if one more job would find no place, or would wait too long for its deadline."""
        wait = 0.0
        if self._live < self.limit:
            if self.longest_wait is None or not self.rows:
                return
            wait = self.expected_wait()
            longest = self.longest_wait or max(LEAST_WAIT_SECONDS, CALLS * self.times.seconds(1))
            if wait <= min(longest, deadline - monotonic()):
                return
        after = ("retry-after", str(max(1, ceil(wait))))
        raise Refusal(429, "too many requests wait already; try again", after)

    def submit(self, inputs: Tensors, deadline: float, done: Done) -> Job:
        """Wait for a place in a batch; `done` is told the outputs for these rows, in any case, or an error.

        The errors are Refusal: 400, 500 or 503 as the engine answers, 504 when `deadline` has passed. Raises
        Refusal (429) as `admit` does.
        """
        self.admit(deadline)
        if len(self._waiting) > 2 * self.limit:
            self._waiting = deque(job for job in self._waiting if job.queued)
        job = Job(inputs, deadline, done)
        job.alone = self.largest <= 1
        self._waiting.append(job)
        self._live += 1
        self.rows += job.rows
        self.wake()
        return job

    async def run(self, inputs: Tensors, deadline: float) -> Tensors:
        """The same for a coroutine; one that is cancelled gives its place up."""
        answer: asyncio.Future[Tensors] = asyncio.get_running_loop().create_future()

        def done(outcome: Tensors | Exception) -> None:
            if answer.done():
                return
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        job = self.submit(inputs, deadline, done)
        try:
            return await answer
        finally:
            self.give_up(job)

    def give_up(self, job: Job) -> None:
        """Nobody waits for `job` any more."""
        job.over = True
        if job.queued:
            self._leave(job, monotonic())

    def take(self, shares: int = 1) -> list[Job]:
        """The next batch: the oldest job and others that fit to it; empty if nobody waits.

        `shares` engine processes are free and share what waits. A batch has no more rows than pay by `times`,
        and none that would make one of its jobs late.
        """
        batch: list[Job] = []
        others: list[Job] = []
        rows = most = 0
        now = monotonic()
        soonest = 0.0
        while self._waiting:
            job = self._waiting.popleft()
            if not job.queued:
                continue
            if not batch:
                rows, soonest = job.rows, job.deadline
                most = 0 if job.alone else self._most(shares)
            elif job.alone or job.shapes != batch[0].shapes:
                others.append(job)
                continue
            else:
                rows, soonest = rows + job.rows, min(soonest, job.deadline)
                if rows > most or now + self.times.seconds(rows) > soonest:
                    others.append(job)
                    break
            batch.append(job)
            self._leave(job, now)
            self._running.add(job)
            if rows >= most:
                break
        self._waiting.extendleft(reversed(others))
        return batch

    def _most(self, shares: int) -> int:
        share = -(-self.rows // shares)
        return self.times.best(min(share, self.largest, self.max_batch))

    def finished(self, batch: list[Job]) -> None:
        """An engine process has done with `batch`, well or not."""
        self._running.difference_update(batch)

    def put_back(self, batch: list[Job]) -> None:
        """Run the jobs of a failed batch one by one, ahead of the others, so that one cannot spoil the rest."""
        for job in reversed(batch):
            self._running.discard(job)
            if not job.over:
                job.alone, job.queued, job.since = True, True, monotonic()
                self._waiting.appendleft(job)
                self._live += 1
                self.rows += job.rows
        self.wake()

    async def watch_deadlines(self) -> None:
        """Answer 504 to jobs whose deadline passes, waiting or running, until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = monotonic()
            for job in [
                one for one in (*self._waiting, *self._running) if one.deadline < now and not one.over
            ]:
                if job.queued:
                    self._leave(job, now)
                job.fail(Refusal(504, "the deadline passed before the model answered"))

    def fail_all(self, error: Exception) -> None:
        """Answer all that wait with `error`."""
        now = monotonic()
        while self._waiting:
            job = self._waiting.popleft()
            if job.queued:
                self._leave(job, now)
            job.fail(error)

    def _leave(self, job: Job, now: float) -> None:
        job.queued = False
        self._live -= 1
        self.rows -= job.rows
        self._waited += now - job.since
