"""Requests that wait for an engine: bounded, first come first served, joined to batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from fulldeck.serving.http import Refusal
from fulldeck.serving.wire import Tensors


@dataclass(slots=True, eq=False)
class Job:
    """One request's tensors, and where its answer goes."""

    inputs: Tensors
    rows: int
    answer: asyncio.Future[Tensors]
    alone: bool
    since: float
    taken: bool = False

    def joins(self, other: Job) -> bool:
        """Whether both can be rows of one batch: the same inputs with the same shapes behind the first axis."""
        return not other.alone and all(
            array.shape[1:] == other.inputs[name].shape[1:] for name, array in self.inputs.items()
        )

    def succeed(self, outputs: Tensors) -> None:
        """Answer, unless nobody waits any more."""
        if not self.answer.done():
            self.answer.set_result(outputs)

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless nobody waits any more."""
        if not self.answer.done():
            self.answer.set_exception(error)


class JobQueue:
    """At most `limit` waiting jobs, taken in batches of at most `max_batch` rows.

    `joinable`: whether the model takes any number of rows. `wake` is called after a job has come.
    """

    def __init__(self, limit: int, max_batch: int, *, joinable: bool) -> None:
        self.limit = limit
        self.max_batch = max_batch
        self.joinable = joinable
        self.wake: Callable[[], None] = lambda: None
        self._waiting: deque[Job] = deque()
        self._waited = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def waited_seconds(self) -> float:
        """Time that jobs have waited so far, together; how fast it grows is the mean length of the queue."""
        now = monotonic()
        return self._waited + sum(now - job.since for job in self._waiting)

    async def run(self, inputs: Tensors) -> Tensors:
        """Wait for a place in a batch and return the outputs for these rows.

        Raises Refusal: 429 if the queue is full, 400, 500 or 503 as the engine answers. A cancelled job
        gives its place up.
        """
        if len(self._waiting) >= self.limit:
            raise Refusal(429, "the queue is full; try again", ("retry-after", "1"))
        rows = len(next(iter(inputs.values())))
        answer: asyncio.Future[Tensors] = asyncio.get_running_loop().create_future()
        job = Job(inputs, rows, answer, alone=not self.joinable, since=monotonic())
        self._waiting.append(job)
        self.wake()
        try:
            return await job.answer
        finally:
            if not job.taken:
                self._waiting.remove(job)
                self._waited += monotonic() - job.since

    def take(self) -> list[Job]:
        """The next batch: the oldest job and all others that fit to it; empty if nobody waits."""
        if not self._waiting:
            return []
        first = self._waiting.popleft()
        batch, rows = [first], first.rows
        if not first.alone:
            rest: deque[Job] = deque()
            for job in self._waiting:
                if rows + job.rows <= self.max_batch and first.joins(job):
                    batch.append(job)
                    rows += job.rows
                else:
                    rest.append(job)
            self._waiting = rest
        now = monotonic()
        for job in batch:
            job.taken = True
            self._waited += now - job.since
        return batch

    def put_back(self, batch: list[Job]) -> None:
        """Run the jobs of a failed batch one by one, ahead of the others, so that one cannot spoil the rest."""
        for job in reversed(batch):
            if not job.answer.done():
                job.alone, job.taken, job.since = True, False, monotonic()
                self._waiting.appendleft(job)
        self.wake()
