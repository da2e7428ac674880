"""An engine process: loads the packaged model, warms it up, and answers one frame after another.

Started by `fulldeck.serving.worker_process` as `python -m fulldeck.serving.worker`. It ends when its
socket closes, so it never outlives the API process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from fulldeck.errors import BadInput
from fulldeck.package import Package
from fulldeck.serving.warm_up import warm_up
from fulldeck.serving.wire import LENGTHS, Array, SharedMemory, Tensors, pack, unpack

PR_SET_PDEATHSIG = 1


def main(folder: str, engine: str, threads: str, largest: str, parent: str, *descriptors: str) -> None:
    """Serve the package in `folder`; `descriptors` are the socket, the inbox and the outbox."""
    die_with(int(parent))
    link, inbox, outbox = (int(descriptor) for descriptor in descriptors)
    with socket.socket(fileno=link) as connection, suppress(EOFError, ConnectionError):
        answer(
            connection,
            SharedMemory(inbox),
            SharedMemory(outbox),
            Path(folder),
            engine,
            threads=int(threads),
            largest=int(largest),
        )


def answer(
    connection: socket.socket,
    inbox: SharedMemory,
    outbox: SharedMemory,
    folder: Path,
    engine: str,
    *,
    threads: int,
    largest: int,
) -> None:
    """Load the model, say how fast it is, and run what comes until the other side closes."""
    try:
        package = Package.open(folder)
        form = package.model(engine)
        loaded = package.engine_of(form, threads=threads)
        sizes = warm_up(loaded, package, form, largest=largest)
    except BadInput as error:
        connection.sendall(pack({}, outbox, failed=str(error)))
        return
    connection.sendall(pack({}, outbox, ready=True, sizes=sizes))
    for header, payload in frames(connection):
        facts, inputs = unpack(header, payload, inbox)
        facts, outputs = answered(loaded.run, inputs, facts.get("size", 0))
        connection.sendall(pack({name: [array] for name, array in outputs.items()}, outbox, **facts))


def answered(
    run: Callable[[Tensors], Mapping[str, Array]], inputs: Tensors, size: int
) -> tuple[dict[str, Any], Tensors]:
    """What `run` makes of `inputs`, as a batch of `size` rows where that is more; with its seconds, or its error."""
    begun = perf_counter()
    try:
        rows = len(next(iter(inputs.values())))
        outputs = filled_up(run, inputs, size) if size > rows else dict(run(inputs))
    except BadInput as error:
        return {"error": str(error), "bad_input": True}, {}
    except Exception as error:  # whatever an engine raises is this batch's answer, not the worker's end
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}", "bad_input": False}, {}
    return {"seconds": perf_counter() - begun}, outputs


def filled_up(run: Callable[[Tensors], Mapping[str, Array]], inputs: Tensors, size: int) -> Tensors:
    """The outputs for `inputs`, run as a batch of `size` rows, the last row repeated."""
    rows = len(next(iter(inputs.values())))
    full = {
        name: np.concatenate((array, np.repeat(array[-1:], size - rows, axis=0)))
        for name, array in inputs.items()
    }
    return {name: array[:rows] for name, array in run(full).items()}


def frames(connection: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """Header and payload of each frame. Raises EOFError when the other side has closed."""
    buffer = bytearray()
    while True:
        size = LENGTHS.size
        while len(buffer) < size:
            part = connection.recv(1 << 18)
            if not part:
                raise EOFError
            buffer += part
            if len(buffer) >= LENGTHS.size:
                size = LENGTHS.size + sum(LENGTHS.unpack_from(buffer))
        header_size, payload_size = LENGTHS.unpack_from(buffer)
        middle = LENGTHS.size + header_size
        header, payload = bytes(buffer[LENGTHS.size : middle]), bytes(buffer[middle : middle + payload_size])
        del buffer[: middle + payload_size]
        yield header, payload


def die_with(parent: int) -> None:
    """On Linux, be killed when the process `parent` dies, also in the middle of a long run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
