"""A training's account of itself: a line about each second, in the folder of its run."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from fulldeck.errors import BadInput
from fulldeck.files import write_text
from fulldeck.monitoring.recording import SECONDS as BOUNDS
from fulldeck.monitoring.recording import Counts, Histogram
from fulldeck.monitoring.training import KEPT, LIVE, Moment

SECONDS = 1.0
"""Between two lines of steps, at least."""
LINES_OF_QUANTILES = 5


class TrainingLog:
    """Counts steps, and writes `live.jsonl` in `folder`. A step costs it well under a microsecond.

    Where it cannot write, nothing is said: a page is no reason to end a training.
    """

    def __init__(self, folder: Path, **known: Any) -> None:
        self._path = folder / LIVE
        process = psutil.Process()
        self._now = Moment(0.0, "", socket.gethostname(), process.pid, process.create_time())
        self._lines: deque[str] = deque(maxlen=KEPT)
        self._written = 0
        self._durations = Histogram(BOUNDS)
        self._recent: deque[Counts] = deque(maxlen=LINES_OF_QUANTILES)
        self._counted = self._durations.counts()
        self._samples = self._done = 0
        self._then: float | None = None
        self._told = 0.0
        self.write(**known)

    def step(self, samples: int, loss: float | None = None, **known: Any) -> None:
        """A step with so many samples begins; `known` are other fields of a Moment."""
        if self.count(samples):
            self.write(step=self._done, loss=loss, **known)

    def count(self, samples: int) -> bool:
        """A step with so many samples begins; whether it is time for a line."""
        now = time.perf_counter()
        if self._then is not None:
            self._durations.observe(now - self._then)
        self._then = now
        self._samples += samples
        self._done += 1
        return now - self._told >= SECONDS

    def pause(self) -> None:
        """What comes before the next step is no step: an evaluation, say."""
        self._then = None

    def write(self, **changed: Any) -> None:
        """A line, with the fields of a Moment that have changed."""
        if self._done:
            changed |= self._speed()
        self._told = time.perf_counter()
        self._now = replace(self._now, at=time.time(), samples=self._samples, done=self._done, **changed)
        line = self._now.to_line()
        self._lines.append(line)
        with contextlib.suppress(OSError, BadInput):
            self._append(line)

    def _speed(self) -> dict[str, Any]:
        counts = self._durations.counts()
        self._recent.append(counts - self._counted)
        self._counted = counts
        recent = sum(self._recent, start=0 * counts)
        pairs, spent = self._durations.cumulative()
        quantiles = {f"p{share}": self._durations.quantile(recent, share / 100) for share in (50, 90, 99)}
        return {**quantiles, "buckets": tuple(count for _, count in pairs), "spent": spent}

    def _append(self, line: str) -> None:
        if self._written >= 2 * KEPT:
            write_text(self._path, "".join(self._lines))
            self._written = len(self._lines)
            return
        # In one call, so that who follows the file never reads half of a line from a crash in between.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
        self._written += 1
