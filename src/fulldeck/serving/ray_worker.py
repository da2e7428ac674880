"""An engine in an actor of Ray, on whatever machine of its cluster has room; the front stays what it is.

Queue, batches, limits, metrics and scaling are the server's own, so an actor is an engine process that lies further
away. A cluster that RAY_ADDRESS names is used; without it, one is started here for as long as the server runs.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fulldeck.errors import BadInput, RunFailed, extra
from fulldeck.monitoring.devices import cores
from fulldeck.package import Package
from fulldeck.serving.engine_worker import EngineWorker, Parts
from fulldeck.serving.queue import JobQueue
from fulldeck.serving.warm_up import warm_up
from fulldeck.serving.wire import Tensors
from fulldeck.serving.worker import answered


@contextmanager
def cluster(processors: int) -> Iterator[None]:
    """Within it this process is a driver of Ray; a cluster that is started for it has room for `processors`.

    Raises BadInput without the extra, RunFailed if the cluster cannot be reached or started.
    """
    ray = extra("ray", "ray")
    address = os.environ.get("RAY_ADDRESS")
    with tempfile.TemporaryDirectory(prefix="fulldeck-ray-", ignore_cleanup_errors=True) as folder:
        own = {} if address else {"num_cpus": max(processors, cores()), "_temp_dir": folder}
        try:
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                configure_logging=False,
                log_to_driver=False,
                **own,
            )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = f"the cluster of Ray at {address}" if address else "a cluster of Ray here"
            raise RunFailed(f"{where} could not be had: {str(error).splitlines()[0]}") from None
        try:
            yield
        finally:
            ray.shutdown()


class RayEngine:
    """The actor: a packaged model, loaded and warmed up. The package's folder is the same on all machines."""

    def __init__(self, folder: str, engine: str, threads: int, largest: int) -> None:
        self._place = folder, engine, threads, largest

    def load(self) -> dict[str, Any]:
        """Load and warm up: where it runs and the time of each size of a batch, or why it cannot."""
        folder, engine, threads, largest = self._place
        try:
            package = Package.open(Path(folder))
            form = package.model(engine)
            self._engine = package.engine_of(form, threads=threads)
            sizes = warm_up(self._engine, package, form, largest=largest)
        except BadInput as error:
            return {"failed": str(error)}
        return {"ready": True, "sizes": sizes, "host": socket.gethostname(), "pid": os.getpid()}

    def run(self, inputs: Tensors, size: int) -> tuple[dict[str, Any], Tensors]:
        """One batch."""
        return answered(self._engine.run, inputs, size)

    def stay(self) -> None:
        """Never return: whoever waits for it learns of the actor's end at once."""
        threading.Event().wait()


class RayWorker(EngineWorker):
    """The API process's end of one actor, which takes `threads` processors of the cluster."""

    def __init__(
        self,
        folder: Path,
        engine: str,
        threads: int,
        queue: JobQueue,
        *,
        idle: Callable[[], None],
        done: Callable[[float, int], None],
    ) -> None:
        super().__init__(queue, idle=idle, done=done)
        self._ray = extra("ray", "ray")
        largest = min(queue.largest, queue.max_batch)
        # Two threads: one stays, the other works.
        made = self._ray.remote(RayEngine).options(num_cpus=threads, max_concurrency=2, max_restarts=0)
        self._actor = made.remote(str(folder.resolve()), engine, threads, largest)
        self._tasks: set[asyncio.Task[None]] = set()
        self._place: tuple[str, int] | None = None
        self._ending = "stopped"

    @property
    def pid(self) -> int | None:
        here = self._place is not None and self._place[0] == socket.gethostname()
        return self._place[1] if here and self._place is not None else None

    @property
    def ending(self) -> str:
        return self._ending

    async def load(self) -> None:
        self._begin(self._watch())
        self._begin(self._load())
        await self._loaded

    def _send(self, parts: Parts, rows: int, size: int) -> None:
        inputs = {
            name: arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for name, arrays in parts.items()
        }
        self._begin(self._ask(inputs, max(size, rows)))

    def kill(self) -> None:
        self._ray.kill(self._actor)

    async def stop(self, patience: float) -> None:
        self.kill()
        try:
            async with asyncio.timeout(patience):
                await self.gone.wait()
        except TimeoutError:
            self._lost()
        for task in list(self._tasks):
            task.cancel()

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self) -> None:
        try:
            facts = await self._actor.load.remote()
        except self._ray.exceptions.RayError:
            return  # whoever watches it tells
        if "pid" in facts:
            self._place = facts["host"], facts["pid"]
        self._receive(facts, {})

    async def _ask(self, inputs: Tensors, size: int) -> None:
        try:
            facts, outputs = await self._actor.run.remote(inputs, size)
        except self._ray.exceptions.RayError:
            return
        self._receive(facts, outputs)

    async def _watch(self) -> None:
        try:
            await self._actor.stay.remote()
        except self._ray.exceptions.RayError as error:
            self._ending = type(error).__name__
        self._lost()
