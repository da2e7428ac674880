"""The API process's end of one engine process: start it, give it batches, take its answers, end it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from time import monotonic
from typing import Any, cast

from fulldeck.errors import BadInput
from fulldeck.serving.http import Refusal
from fulldeck.serving.queue import Job, JobQueue
from fulldeck.serving.wire import LENGTHS, SharedMemory, Tensors, pack, unpack

DIED = "the engine process died while it worked on this request; try again"
SLOW = 3.0
"""Times what a slow batch takes after which an engine process is taken for hung."""


class WorkerProcess(asyncio.Protocol):
    """One child, started by the constructor; `gone` is set once it has ended.

    `idle` is called whenever it has finished a batch, `done` with the seconds that it spent on one and the rows
    that it answered. Raises OSError if no process can be started.
    """

    def __init__(
        self,
        folder: Path,
        engine: str,
        threads: int,
        *,
        queue: JobQueue,
        idle: Callable[[], None],
        done: Callable[[float, int], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = queue
        self._idle = idle
        self._done = done
        self._begun = 0.0
        self._buffer = bytearray()
        self._batch: list[Job] = []
        self._rows = 0
        self._transport: asyncio.Transport | None = None
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self.ready = False
        self.gone = asyncio.Event()
        with ExitStack() as stack:
            self._inbox = stack.enter_context(closing(SharedMemory.create()))
            self._outbox = stack.enter_context(closing(SharedMemory.create()))
            self._socket, theirs = socket.socketpair()
            stack.enter_context(theirs)
            descriptors = (theirs.fileno(), self._inbox.descriptor, self._outbox.descriptor)
            numbers = (threads, min(queue.largest, queue.max_batch), os.getpid(), *descriptors)
            words = ("-P", "-m", "fulldeck.serving.worker", str(folder.resolve()), engine, *map(str, numbers))
            self.process = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what an engine prints must not get between the server's own output
                pass_fds=descriptors,
                process_group=0,  # Ctrl-C in a terminal is for the API process, which ends its children
            )
            theirs.close()
            stack.pop_all()

    async def load(self) -> None:
        """Wait until the child has loaded the package and warmed it up.

        Raises BadInput with its reason if it cannot, ConnectionError if it dies.
        """
        self._socket.setblocking(False)
        await self._loop.create_connection(lambda: self, sock=self._socket)
        await self._loaded

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
        assert self._transport is not None
        self._batch = batch
        self._begun = monotonic()
        self._rows = rows = sum(job.rows for job in batch)
        size = self._queue.times.size(rows)
        parts = {name: [job.inputs[name] for job in batch] for name in batch[0].inputs}
        self._transport.write(pack(parts, self._inbox, **({"size": size} if size > rows else {})))

    def kill(self) -> None:
        """End the child at once."""
        self.process.kill()

    async def stop(self, patience: float) -> None:
        """Ask the child to end, kill it after `patience` seconds, and wait until it is gone."""
        if self._transport is not None:
            self._transport.close()
        try:
            await asyncio.to_thread(self.process.wait, patience)
        except subprocess.TimeoutExpired:
            self.kill()
            await asyncio.to_thread(self.process.wait)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= LENGTHS.size:
            header_size, payload_size = LENGTHS.unpack_from(self._buffer)
            middle = LENGTHS.size + header_size
            end = middle + payload_size
            if len(self._buffer) < end:
                return
            header, payload = bytes(self._buffer[LENGTHS.size : middle]), bytes(self._buffer[middle:end])
            del self._buffer[:end]
            # Copied, because shared memory belongs to the next batch as soon as that is sent.
            self._receive(*unpack(header, payload, self._outbox, copy=True))

    def connection_lost(self, error: Exception | None) -> None:
        self.ready = False
        self.kill()
        if self._batch:
            self._done(self.working_seconds, 0)
        batch, self._batch = self._batch, []
        self._queue.finished(batch)
        for job in batch:
            job.fail(Refusal(503, DIED, ("retry-after", "1")))
        self._inbox.close()
        self._outbox.close()
        if not self._loaded.done():
            self._loaded.set_exception(ConnectionError("the engine process died while it loaded the model"))
        self.gone.set()

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
