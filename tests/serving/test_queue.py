import asyncio
from typing import Any

import numpy as np
import pytest

from fulldeck.serving.http import Refusal
from fulldeck.serving.queue import JobQueue


def rows(count: int, *shape: int) -> dict[str, Any]:
    return {"input": np.zeros((count, *shape), np.float32)}


def batches(queue: JobQueue) -> list[list[int]]:
    taken = []
    while batch := queue.take():
        taken.append([job.rows for job in batch])
    return taken


def waiting(queue: JobQueue, *inputs: dict[str, Any]) -> list[asyncio.Task[Any]]:
    return [asyncio.ensure_future(queue.run(one)) for one in inputs]


def test_batches_hold_equal_shapes_in_order_and_never_too_many_rows() -> None:
    async def scenario() -> None:
        queue = JobQueue(100, 4, joinable=True)
        tasks = waiting(queue, rows(1, 3), rows(2, 3), rows(1, 5), rows(2, 3), rows(1, 3), rows(4, 5))
        await asyncio.sleep(0)
        assert batches(queue) == [[1, 2, 1], [1], [2], [4]]
        for task in tasks:
            task.cancel()

    asyncio.run(scenario())


def test_a_model_with_a_fixed_batch_gets_one_request_at_a_time() -> None:
    async def scenario() -> None:
        queue = JobQueue(100, 4, joinable=False)
        tasks = waiting(queue, rows(1, 3), rows(1, 3))
        await asyncio.sleep(0)
        assert batches(queue) == [[1], [1]]
        for task in tasks:
            task.cancel()

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_a_cancelled_request_frees_its_place() -> None:
    async def scenario() -> None:
        queue = JobQueue(2, 4, joinable=True)
        tasks = waiting(queue, rows(1, 3), rows(1, 3))
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as refusal:
            await queue.run(rows(1, 3))
        assert refusal.value.response.status == 429
        assert ("retry-after", "1") in refusal.value.response.headers
        tasks[0].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(queue) == 1
        tasks[1].cancel()

    asyncio.run(scenario())


def test_jobs_of_a_failed_batch_come_back_alone_and_first() -> None:
    async def scenario() -> None:
        queue = JobQueue(10, 8, joinable=True)
        tasks = waiting(queue, rows(1, 3), rows(2, 3))
        await asyncio.sleep(0)
        batch = queue.take()
        tasks += waiting(queue, rows(3, 3))
        await asyncio.sleep(0)
        queue.put_back(batch)
        assert batches(queue) == [[1], [2], [3]]
        for task in tasks:
            task.cancel()

    asyncio.run(scenario())
