"""Keeps the engine processes alive and busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fulldeck.errors import BadInput, RunFailed
from fulldeck.logs import tree
from fulldeck.package import Package
from fulldeck.serving.engine_worker import EngineWorker
from fulldeck.serving.metrics import ServerMetrics
from fulldeck.serving.queue import JobQueue

LOAD_SECONDS = 300.0
"""Time in which an engine process must have loaded its model."""
PATIENCE_SECONDS = 2.0
"""Time in which an idle engine process must end when asked, before it is killed."""
LONGEST_PAUSE_SECONDS = 2.0
"""Longest pause before another attempt to start an engine process that failed to start."""
LOOK_SECONDS = 0.01
"""How often it is looked whether an engine process that is to go has finished its batch."""
HUNG_LOOK_SECONDS = 0.1
"""How often it is looked whether an engine process is hung."""

log = tree.getChild("serving")


class Supervisor:
    """Runs `workers` engine processes, gives them batches from `queue`, replaces those that die or hang.

    One that has been at a batch for more than `stall` seconds, and longer than it should take, is hung. Where
    one ended and the package in its folder is another by now, `changed` is called, and it is not replaced. `make`
    makes an engine of what `fulldeck.serving.worker_process.WorkerProcess` takes.
    """

    def __init__(
        self,
        package: Package,
        queue: JobQueue,
        metrics: ServerMetrics,
        *,
        workers: int,
        engine: str,
        threads: int,
        stall: float,
        changed: Callable[[], object],
        make: Callable[..., EngineWorker],
    ) -> None:
        self._package = package
        self._make = make
        self._changed = changed
        self._queue = queue
        self._metrics = metrics
        self._engine = engine
        self.threads = threads
        self._stall = stall
        self._slots: list[EngineWorker | None] = [None] * workers
        self._keepers: list[asyncio.Task[None]] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._leaving: dict[asyncio.Task[None], EngineWorker] = {}
        self._scheduled = False
        self._busy = 0.0
        self.restarts = 0
        """How often an engine process was started in place of one that ended."""
        queue.wake = self._soon
        queue.engines = lambda: self.ready_replicas

    @property
    def ready(self) -> bool:
        """Whether any engine process can take requests."""
        return self.ready_replicas > 0

    @property
    def ready_replicas(self) -> int:
        """How many engine processes can take requests."""
        return sum(worker is not None and worker.ready for worker in self._slots)

    @property
    def replicas(self) -> int:
        """How many engine processes there should be."""
        return len(self._slots)

    @property
    def processes(self) -> list[int]:
        """Process numbers of all engine processes on this machine."""
        return [worker.pid for worker in self._workers() if worker.pid is not None]

    def busy_seconds(self) -> float:
        """Time that engine processes have spent on batches so far, together."""
        return self._busy + sum(worker.working_seconds for worker in self._workers())

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
        self._watchers = [
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._queue.watch_deadlines()),
        ]

    async def finish(self) -> None:
        """Wait until nothing waits or runs, then end all engine processes."""
        while not self._queue.idle:
            await asyncio.sleep(LOOK_SECONDS)
        await self.stop()

    def resize(self, replicas: int) -> None:
        """Have so many engine processes: new ones load in the background, the last ones finish and go."""
        if not self._keepers:
            return  # not started yet, or stopped
        while len(self._slots) < replicas:
            self._slots.append(None)
            self._keepers.append(asyncio.create_task(self._add(len(self._slots) - 1)))
        while len(self._slots) > replicas:
            self._keepers.pop().cancel()
            worker = self._slots.pop()
            if worker is not None:
                task = asyncio.create_task(self._leave(worker))
                self._leaving[task] = worker
                task.add_done_callback(self._leaving.pop)

    async def stop(self) -> None:
        """End all engine processes; none is left when this returns."""
        tasks = [*self._keepers, *self._leaving, *self._watchers]
        workers = self._workers()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop(PATIENCE_SECONDS) for worker in workers))

    def _workers(self) -> list[EngineWorker]:
        return [worker for worker in (*self._slots, *self._leaving.values()) if worker is not None]

    async def _start(self, slot: int) -> None:
        worker = self._make(
            self._package.folder,
            self._engine,
            self.threads,
            self._queue,
            idle=self._hand_out,
            done=self._worked,
        )
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                await worker.load()
        except BaseException as error:
            worker.kill()
            await worker.stop(PATIENCE_SECONDS)
            if isinstance(error, TimeoutError):  # which says nothing by itself
                raise TimeoutError(f"it had not loaded the model after {LOAD_SECONDS:g} s") from None
            raise
        self._slots[slot] = worker
        self._soon()

    async def _add(self, slot: int) -> None:
        """Start the process of a new slot, and keep it."""
        await self._start_again(slot)
        await self._keep(slot)

    async def _keep(self, slot: int) -> None:
        """Replace the process of `slot` whenever it ends."""
        while True:
            worker = self._slots[slot]
            assert worker is not None
            await worker.gone.wait()
            await worker.stop(PATIENCE_SECONDS)
            log.warning(
                "engine process %s ended (%s); starting another",
                worker.pid or "elsewhere",
                worker.ending,
            )
            self.restarts += 1
            await self._start_again(slot)

    async def _start_again(self, slot: int) -> None:
        """Try until it works."""
        pause = 0.1
        while self._package.replaced() or not await self._started(slot):
            if self._package.replaced():
                self._changed()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _started(self, slot: int) -> bool:
        try:
            await self._start(slot)
        except (BadInput, TimeoutError, OSError) as error:
            log.error("an engine process did not start: %s", error)
            return False
        return True

    async def _leave(self, worker: EngineWorker) -> None:
        """Let a process finish its batch, then end it."""
        while worker.ready and not worker.free:
            await asyncio.sleep(LOOK_SECONDS)
        await worker.stop(PATIENCE_SECONDS)

    def _worked(self, seconds: float, rows: int) -> None:
        self._busy += seconds
        if rows:
            self._metrics.batch(rows)

    def _soon(self) -> None:
        """Hand out batches after all requests that have arrived by now are in the queue."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._scheduled = False
        free = [worker for worker in self._slots if worker is not None and worker.free]
        for place, worker in enumerate(free):
            batch = self._queue.take(len(free) - place)
            if not batch:
                return
            worker.run(batch)

    async def _watch(self) -> None:
        """Kill engine processes that hang; they are replaced."""
        while True:
            await asyncio.sleep(HUNG_LOOK_SECONDS)
            for worker in self._workers():
                if worker.hung(self._stall):
                    log.warning(
                        "engine process %s hangs: %.1f s at one batch",
                        worker.pid or "elsewhere",
                        worker.working_seconds,
                    )
                    worker.kill()
