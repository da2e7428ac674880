"""One engine as the front process sees it, wherever it runs: give it batches, take its answers, notice its end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import Any

from fulldeck.errors import BadInput
from fulldeck.serving.http import Refusal
from fulldeck.serving.queue import Job, JobQueue
from fulldeck.serving.wire import Array, Tensors

DIED = "the engine process died while it worked on this request; try again"
SLOW = 3.0
"""Times what a slow batch takes after which an engine process is taken for hung."""

Parts = dict[str, list[Array]]
"""Of each input, those of the jobs of a batch."""


class EngineWorker(ABC):
    """One engine, started by the constructor; `gone` is set once it has ended.

    `idle` is called whenever it has finished a batch, `done` with the seconds that it spent on one and the rows
    that it answered.
    """

    def __init__(
        self, queue: JobQueue, *, idle: Callable[[], None], done: Callable[[float, int], None]
    ) -> None:
        self._queue = queue
        self._idle = idle
        self._done = done
        self._begun = 0.0
        self._batch: list[Job] = []
        self._rows = 0
        self._loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready = False
        self.gone = asyncio.Event()

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Its process number on this machine; None if it runs elsewhere."""

    @property
    @abstractmethod
    def ending(self) -> str:
        """How it ended, in a word."""

    @abstractmethod
    async def load(self) -> None:
        """Wait until it has loaded the package and warmed up.

        Raises BadInput with its reason if it cannot, ConnectionError if it dies.
        """

    @abstractmethod
    def _send(self, parts: Parts, rows: int, size: int) -> None:
        """Let it run a batch of so many rows, as one of `size`; its answer goes to `_receive`."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once."""

    @abstractmethod
    async def stop(self, patience: float) -> None:
        """Ask it to end, kill it after `patience` seconds, and wait until it is gone."""

    @property
    def free(self) -> bool:
        """Whether it has loaded the model and works on nothing."""
        return self.ready and not self._batch

    @property
    def working_seconds(self) -> float:
        """How long it has been at its present batch; 0 without one."""
        return monotonic() - self._begun if self._batch else 0.0

    def hung(self, least: float) -> bool:
        """Whether it has been at its batch for longer than `least` seconds and any such batch should take."""
        if not self._batch or self.working_seconds < least:
            return False
        return self.working_seconds > SLOW * self._queue.times.slowest(self._rows)

    def run(self, batch: list[Job]) -> None:
        """Send a batch; its jobs get their answers, or errors, in any case."""
        self._batch = batch
        self._begun = monotonic()
        self._rows = rows = sum(job.rows for job in batch)
        parts = {name: [job.inputs[name] for job in batch] for name in batch[0].inputs}
        self._send(parts, rows, self._queue.times.size(rows))

    # What the engine says.

    def _receive(self, facts: dict[str, Any], outputs: Tensors) -> None:
        if self._batch:
            took, rows = self.working_seconds, self._rows
            batch, self._batch = self._batch, []
            self._queue.finished(batch)
            self._done(took, 0 if "error" in facts else rows)
            if "seconds" in facts:
                self._queue.times.ran(self._queue.times.size(rows), facts["seconds"], took - facts["seconds"])
            if self._goes_back(batch, facts, outputs):
                self._queue.put_back(batch)
                return
            # The next batch is on its way before this one's answers are written.
            self._idle()
            self._answer(batch, facts, outputs)
        elif self._loaded.done():
            self.kill()
        elif "failed" in facts:
            self._loaded.set_exception(BadInput(facts["failed"]))
        else:
            self._queue.times.learn(facts["sizes"])
            self.ready = True
            self._loaded.set_result(None)

    def _lost(self) -> None:
        """It has ended, or cannot be reached any more."""
        self.ready = False
        if self._batch:
            self._done(self.working_seconds, 0)
        batch, self._batch = self._batch, []
        self._queue.finished(batch)
        for job in batch:
            job.fail(Refusal(503, DIED, ("retry-after", "1")))
        if not self._loaded.done():
            self._loaded.set_exception(ConnectionError("the engine process died while it loaded the model"))
        self.gone.set()

    def _goes_back(self, batch: list[Job], facts: dict[str, Any], outputs: Tensors) -> bool:
        """Whether these jobs must be run one by one."""
        if len(batch) == 1:
            return False
        if "error" in facts:
            return True
        if all(array.shape[:1] == (self._rows,) for array in outputs.values()):
            return False
        self._queue.largest = 1
        return True

    def _answer(self, batch: list[Job], facts: dict[str, Any], outputs: Tensors) -> None:
        if "error" in facts:
            batch[0].fail(Refusal(400 if facts["bad_input"] else 500, f"the model failed: {facts['error']}"))
        elif len(batch) == 1:
            batch[0].succeed(outputs)
        else:
            start = 0
            for job in batch:
                end = start + job.rows
                job.succeed({name: array[start:end] for name, array in outputs.items()})
                start = end
