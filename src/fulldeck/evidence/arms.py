"""Arms: recipes in processes of their own, asked for one measurement at a time."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from fulldeck.errors import RunFailed
from fulldeck.files import write_text
from fulldeck.recipe.recipe import Recipe

LAST_LINES = 3
"""Of an arm's log, quoted where it fails."""


class OutOfTime(Exception):
    """The budget is spent."""


class Arm:
    """One recipe in a fresh process. Use it as a context manager; the process ends with it.

    `deadline` is a moment of `time.monotonic` at which waiting ends with OutOfTime;
    `peer` a library that trains in the place of fulldeck (`fulldeck.evidence.peers`).
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        mode: Literal["steps", "outcome"],
        folder: Path,
        deadline: float | None = None,
        environment: Mapping[str, str] | None = None,
        peer: str | None = None,
    ) -> None:
        self.name = name
        self.deadline = deadline
        self.folder = folder / name.replace(" ", "_").replace("/", "_")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "log.txt"
        written = self.folder / f"{recipe.name}.yaml"
        write_text(written, recipe.to_yaml())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fulldeck.evidence.arm_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **(environment or {})},
                # Ctrl-C is this process's to answer.
                start_new_session=True,
            )
        self._buffer = b""
        runs = str(self.folder / "runs")
        self._send({"mode": mode, "recipe": str(written), "out": runs, "peer": peer})
        self._answered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # an order that an arm which has failed did not read
                    stream.close()

    def ask(self, **order: Any) -> dict[str, Any]:
        """Send one order and wait for its answer.

        Raises RunFailed with the last lines of the arm's log where it fails, OutOfTime at the deadline.
        """
        if not self._answered:
            self._answered = True
            self._answer()
        self._send(order)
        return self._answer()

    def _send(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it has ended; what it said before that is still there to be read
            line = self._line()
            raise self._failure(json.loads(line).get("error", "it ended") if line else "it ended") from None

    def _answer(self) -> dict[str, Any]:
        line = self._line()
        if not line:
            raise self._failure(f"it ended with code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._failure(answer["error"])
        return answer

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = None if self.deadline is None else self.deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise OutOfTime
                if selector.select(left):
                    part = os.read(descriptor, 65536)
                    if not part:
                        return b""
                    self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _failure(self, reason: str) -> RunFailed:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        said = f"; last lines: {' | '.join(lines[-LAST_LINES:])}" if lines else ""
        return RunFailed(f"the arm {self.name} failed: {reason}{said} (log: {self.log})")
