"""An engine in a child process of this machine: tensors go over a Unix socket, large ones through shared memory."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import cast

from fulldeck.serving.engine_worker import EngineWorker, Parts
from fulldeck.serving.queue import JobQueue
from fulldeck.serving.wire import LENGTHS, SharedMemory, pack, unpack


class WorkerProcess(EngineWorker, asyncio.Protocol):
    """The API process's end of one child. Raises OSError if no process can be started."""

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
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        with ExitStack() as stack:
            self._inbox = stack.enter_context(closing(SharedMemory.create()))
            self._outbox = stack.enter_context(closing(SharedMemory.create()))
            self._socket, theirs = socket.socketpair()
            stack.enter_context(theirs)
            descriptors = (theirs.fileno(), self._inbox.descriptor, self._outbox.descriptor)
            numbers = (threads, min(queue.largest, queue.max_batch), os.getpid(), *descriptors)
            words = ("-P", "-m", "fulldeck.serving.worker", str(folder.resolve()), engine, *map(str, numbers))
            self._process = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what an engine prints must not get between the server's own output
                pass_fds=descriptors,
                process_group=0,  # Ctrl-C in a terminal is for the API process, which ends its children
            )
            theirs.close()
            stack.pop_all()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def ending(self) -> str:
        return f"{self._process.returncode}"

    async def load(self) -> None:
        self._socket.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self, sock=self._socket)
        await self._loaded

    def _send(self, parts: Parts, rows: int, size: int) -> None:
        assert self._transport is not None
        self._transport.write(pack(parts, self._inbox, **({"size": size} if size > rows else {})))

    def kill(self) -> None:
        self._process.kill()

    async def stop(self, patience: float) -> None:
        if self._transport is not None:
            self._transport.close()
        try:
            await asyncio.to_thread(self._process.wait, patience)
        except subprocess.TimeoutExpired:
            self.kill()
            await asyncio.to_thread(self._process.wait)

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
        self.kill()
        self._inbox.close()
        self._outbox.close()
        self._lost()
