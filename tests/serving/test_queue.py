import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import numpy as np
import pytest

from fulldeck.serving.batch_times import BatchTimes
from fulldeck.serving.http import Refusal
from fulldeck.serving.queue import Job, JobQueue

LATER = 60.0


def rows(count: int, *shape: int) -> dict[str, Any]:
    return {"input": np.zeros((count, *shape), np.float32)}


class Waiting:
    """A queue in which jobs wait, and what they are told."""

    def __init__(self, limit: int = 100, largest: int = 4, **sizes: float) -> None:
        self.times = BatchTimes()
        self.queue = JobQueue(limit, 8, largest=largest, times=self.times)
        self.told: list[Any] = []

    def come(self, *inputs: dict[str, Any], within: float = LATER) -> list[Job]:
        return [self.queue.submit(one, monotonic() + within, self.told.append) for one in inputs]

    def batches(self, shares: int = 1) -> list[list[int]]:
        taken = []
        while batch := self.queue.take(shares):
            taken.append([job.rows for job in batch])
        return taken


def test_batches_hold_equal_shapes_in_order_and_never_too_many_rows() -> None:
    waiting = Waiting()
    waiting.come(rows(1, 3), rows(2, 3), rows(1, 5), rows(1, 3), rows(1, 3), rows(4, 5))
    assert waiting.batches() == [[1, 2, 1], [1], [1], [4]]
    assert len(waiting.queue) == 0


def test_nothing_is_joined_where_batches_are_not_wanted() -> None:
    waiting = Waiting(largest=1)
    waiting.come(rows(1, 3), rows(2, 3), rows(1, 3))
    assert waiting.batches() == [[1], [2], [1]]


def test_one_that_waits_alone_is_taken_at_once() -> None:
    waiting = Waiting()
    waiting.times.learn([(1, 0.001, 0.001, 0.001), (4, 0.001, 0.001, 0.001)])
    waiting.come(rows(1, 3))
    assert waiting.batches() == [[1]]


def test_no_more_rows_are_joined_than_pay() -> None:
    waiting = Waiting(largest=8)
    waiting.times.learn([(1, 0.01, 0.01, 0.01), (2, 0.011, 0.011, 0.011), (4, 0.04, 0.04, 0.04)])
    waiting.come(*[rows(1, 3)] * 5)
    assert waiting.batches() == [[1, 1], [1, 1], [1]]


def test_a_job_that_would_be_late_is_not_joined() -> None:
    waiting = Waiting()
    waiting.times.learn([(1, 1.0, 1.0, 1.0), (4, 1.5, 1.5, 1.5)])
    waiting.come(rows(1, 3), within=1.1)
    waiting.come(rows(1, 3), rows(1, 3))
    assert waiting.batches() == [[1], [1, 1]]


def test_free_engine_processes_share_what_waits() -> None:
    waiting = Waiting()
    waiting.come(*[rows(1, 3)] * 4)
    assert [len(waiting.queue.take(2)), len(waiting.queue.take(1))] == [2, 2]


def test_a_full_queue_refuses_and_one_that_gives_up_frees_its_place() -> None:
    waiting = Waiting(limit=2)
    first, _ = waiting.come(rows(1, 3), rows(1, 3))
    with pytest.raises(Refusal) as refusal:
        waiting.come(rows(1, 3))
    assert refusal.value.response.status == 429
    assert ("retry-after", "1") in refusal.value.response.headers
    waiting.queue.give_up(first)
    assert len(waiting.queue) == 1
    waiting.come(rows(2, 3))
    assert waiting.batches() == [[1, 2]]


def test_jobs_of_a_failed_batch_come_back_alone_and_first() -> None:
    waiting = Waiting()
    waiting.come(rows(1, 3), rows(2, 3))
    batch = waiting.queue.take()
    waiting.come(rows(3, 3))
    waiting.queue.put_back(batch)
    assert waiting.batches() == [[1], [2], [3]]


def running(scenario: Callable[[Waiting], Awaitable[None]]) -> None:
    async def run() -> None:
        waiting = Waiting()
        deadlines = asyncio.ensure_future(waiting.queue.watch_deadlines())
        await scenario(waiting)
        deadlines.cancel()

    asyncio.run(run())


def test_a_deadline_ends_what_waits_and_what_runs() -> None:
    async def scenario(waiting: Waiting) -> None:
        waiting.come(rows(1, 3), within=0.0)
        batch = waiting.queue.take()
        assert len(batch) == 1
        waiting.come(rows(1, 3), within=0.0)
        while len(waiting.told) < 2:
            await asyncio.sleep(0.01)
        assert [told.response.status for told in waiting.told] == [504, 504]
        assert len(waiting.queue) == 0
        assert not waiting.queue.idle, "an engine process is still at it"
        batch[0].succeed({})
        assert len(waiting.told) == 2, "nobody is told twice"

    running(scenario)


def test_a_coroutine_that_is_cancelled_gives_its_place_up() -> None:
    async def scenario(waiting: Waiting) -> None:
        task = asyncio.ensure_future(waiting.queue.run(rows(1, 3), monotonic() + LATER))
        await asyncio.sleep(0)
        assert len(waiting.queue) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(waiting.queue) == 0

    running(scenario)


def test_many_that_give_up_leave_no_trace() -> None:
    waiting = Waiting(limit=10)
    for _ in range(1000):
        waiting.queue.give_up(*waiting.come(rows(1, 3)))
    assert len(waiting.queue._waiting) < 30
