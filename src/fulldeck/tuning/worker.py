"""Processes that carry out trials, seen from the search: orders go out, answers of all of them come in."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Answer = dict[str, Any]


class Worker:
    """One process. `answers` of an ended one end with {"died": why}."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fulldeck.tuning.trial_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                # Ctrl-C is this process's to answer.
                start_new_session=True,
            )
        self._buffer = b""

    def send(self, line: str) -> None:
        """One line; if the process is gone, its answers will say so."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, OSError):
            pass

    def read(self) -> list[Answer]:
        """The answers that have come; waits for at least one byte."""
        assert self.process.stdout is not None
        part = os.read(self.process.stdout.fileno(), 65536)
        if not part:
            return [{"died": self._how_it_ended()}]
        *lines, self._buffer = (self._buffer + part).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        """Kill it, with all that it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def _how_it_ended(self) -> str:
        code = self.process.wait()
        if code == -signal.SIGKILL:
            return "its process was killed (signal 9; the system does that where memory runs out)"
        return f"its process ended with {f'signal {-code}' if code < 0 else f'code {code}'}"


class Workers:
    """As many as are asked for; all end with the `with` block."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._selector = selectors.DefaultSelector()
        self._all: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for worker in list(self._all):
            self.end(worker)
        self._selector.close()

    def start(self) -> Worker:
        """A new process."""
        worker = Worker(self.log)
        self._all.append(worker)
        assert worker.process.stdout is not None
        self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        return worker

    def end(self, worker: Worker) -> None:
        """End one process."""
        assert worker.process.stdout is not None
        self._selector.unregister(worker.process.stdout)
        self._all.remove(worker)
        worker.end()

    def answers(self, seconds: float) -> Iterator[tuple[Worker, Answer]]:
        """What comes within `seconds`; nothing, if nothing does."""
        for key, _ in self._selector.select(seconds):
            worker: Worker = key.data
            for answer in worker.read():
                yield worker, answer


def order(recipe: Path, seed: int, threads: int | None, out: Path, trained: Path) -> str:
    """The line that asks for a trial (see `fulldeck.tuning.trial_process`)."""
    return json.dumps(
        {"recipe": str(recipe), "seed": seed, "threads": threads, "out": str(out), "trained": str(trained)}
    )
