"""An engine process: loads the packaged model and answers one frame after another.

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
from contextlib import suppress
from pathlib import Path

from fulldeck.errors import BadInput
from fulldeck.package import Package
from fulldeck.serving.wire import LENGTHS, SharedMemory, pack, unpack

PR_SET_PDEATHSIG = 1


def main(folder: str, engine: str, threads: str, parent: str, *descriptors: str) -> None:
    """Serve the package in `folder`; `descriptors` are the socket, the inbox and the outbox."""
    die_with(int(parent))
    link, inbox, outbox = (int(descriptor) for descriptor in descriptors)
    with socket.socket(fileno=link) as connection, suppress(EOFError, ConnectionError):
        answer(connection, SharedMemory(inbox), SharedMemory(outbox), Path(folder), engine, int(threads))


def answer(
    connection: socket.socket,
    inbox: SharedMemory,
    outbox: SharedMemory,
    folder: Path,
    engine: str,
    threads: int,
) -> None:
    """Load the model, say so, and run what comes until the other side closes."""
    try:
        loaded = Package.open(folder).engine(engine, threads=threads)
    except BadInput as error:
        connection.sendall(pack({}, outbox, failed=str(error)))
        return
    connection.sendall(pack({}, outbox, ready=True))
    while True:
        header_size, payload_size = LENGTHS.unpack(receive(connection, LENGTHS.size))
        header, payload = receive(connection, header_size), receive(connection, payload_size)
        _, inputs = unpack(header, payload, inbox)
        try:
            outputs = loaded.run(inputs)
        except BadInput as error:
            frame = pack({}, outbox, error=str(error), bad_input=True)
        except Exception as error:  # whatever an engine raises is this batch's answer, not the worker's end
            traceback.print_exc()
            frame = pack({}, outbox, error=f"{type(error).__name__}: {error}", bad_input=False)
        else:
            frame = pack({name: [array] for name, array in outputs.items()}, outbox)
        connection.sendall(frame)


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes. Raises EOFError if the other side has closed."""
    parts = []
    while size:
        part = connection.recv(size)
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def die_with(parent: int) -> None:
    """On Linux, be killed when the process `parent` dies, also in the middle of a long run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
