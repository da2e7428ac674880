"""Keeps the engine processes alive and busy."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fulldeck.errors import BadInput, RunFailed
from fulldeck.logs import tree
from fulldeck.serving.queue import JobQueue
from fulldeck.serving.worker_process import WorkerProcess

LOAD_SECONDS = 300.0
"""Time in which an engine process must have loaded its model."""
PATIENCE_SECONDS = 2.0
"""Time in which an idle engine process must end when asked, before it is killed."""
LONGEST_PAUSE_SECONDS = 2.0
"""Longest pause before another attempt to start an engine process that failed to start."""

log = tree.getChild("serving")


class Supervisor:
    """Runs `workers` engine processes, gives them batches from `queue`, replaces those that die or hang."""

    def __init__(
        self, folder: Path, queue: JobQueue, *, workers: int, engine: str, threads: int, limit: float
    ) -> None:
        self._folder = folder
        self._queue = queue
        self._engine = engine
        self._threads = threads
        self._limit = limit
        self._slots: list[WorkerProcess | None] = [None] * workers
        self._keepers: list[asyncio.Task[None]] = []
        self._scheduled = False
        queue.wake = self._soon

    @property
    def ready(self) -> bool:
        """Whether any engine process can take requests."""
        return any(worker is not None and worker.ready for worker in self._slots)

    async def start(self) -> None:
        """Start all engine processes and wait until each has loaded the model.

        Raises BadInput with the reason of one that cannot load it, RunFailed if one dies meanwhile.
        """
        started = await asyncio.gather(*map(self._start, range(len(self._slots))), return_exceptions=True)
        for outcome in started:
            if isinstance(outcome, OSError):
                raise RunFailed(f"no engine process: {outcome}")
            if isinstance(outcome, BaseException):
                raise outcome
        self._keepers = [asyncio.create_task(self._keep(slot)) for slot in range(len(self._slots))]

    async def stop(self) -> None:
        """End all engine processes; none is left when this returns."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(worker.stop(PATIENCE_SECONDS) for worker in self._slots if worker is not None))

    async def _start(self, slot: int) -> None:
        worker = WorkerProcess(
            self._folder, self._engine, self._threads, queue=self._queue, limit=self._limit, idle=self._soon
        )
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                await worker.load()
        except BaseException:
            worker.kill()
            await worker.stop(PATIENCE_SECONDS)
            raise
        self._slots[slot] = worker
        self._soon()

    async def _keep(self, slot: int) -> None:
        """Replace the process of `slot` whenever it ends."""
        while True:
            worker = self._slots[slot]
            assert worker is not None
            await worker.gone.wait()
            await worker.stop(PATIENCE_SECONDS)
            log.warning(
                "engine process %d ended (%s); starting another",
                worker.process.pid,
                worker.process.returncode,
            )
            pause = 0.1
            while not await self._restarted(slot):
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _restarted(self, slot: int) -> bool:
        try:
            await self._start(slot)
        except (BadInput, TimeoutError, OSError) as error:
            log.error("an engine process did not start: %s", error)
            return False
        return True

    def _soon(self) -> None:
        """Hand out batches after all requests that have arrived by now are in the queue."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._scheduled = False
        for worker in self._slots:
            if worker is not None and worker.free:
                batch = self._queue.take()
                if not batch:
                    return
                worker.run(batch)
