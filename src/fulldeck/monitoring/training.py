"""What a training tells of itself in its run's folder, and how others follow it."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

LIVE = "live.jsonl"
"""In the folder of a run."""
KEPT = 300
"""Lines that the file keeps, at least; twice as many are too many."""


@dataclass(frozen=True)
class Moment:
    """Where a run is. Totals count from the start of its process."""

    at: float
    """When, in seconds since 1970."""
    name: str
    """The recipe's."""
    host: str
    process: int
    born: float
    """When the process was started: numbers of processes are used again."""
    status: str = "running"
    """running, finished, failed or interrupted."""
    stage: str = ""
    """What the pipeline is at: `train`, another part of it, or an instruction."""
    epoch: int = 0
    """Counted from 0."""
    epochs: int = 0
    step: int = 0
    steps: int = 0
    """Of the whole training."""
    done: int = 0
    """Steps of this process."""
    samples: int = 0
    loss: float | None = None
    validation: Mapping[str, float] = field(default_factory=dict)
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    """Seconds from one batch to the next, of the last few lines."""
    buckets: tuple[int, ...] = ()
    """Steps that took up to each of `recording.SECONDS`, and all of them."""
    spent: float = 0.0
    """Seconds of these steps together."""
    moved: float | None = None
    """Bytes to and from memory of a step, where they were counted."""

    def to_line(self) -> str:
        """As the file has it."""
        return json.dumps(asdict(self)) + "\n"

    def here(self) -> bool:
        """Whether the run is on this machine."""
        return self.host == socket.gethostname()

    def alive(self) -> bool:
        """Whether its process still runs; on another machine that is taken for granted."""
        if not self.here():
            return True
        try:
            process = psutil.Process(self.process)
            ended = process.status() == psutil.STATUS_ZOMBIE  # and its parent has not asked yet
            return not ended and bool(abs(process.create_time() - self.born) < 1)
        except psutil.Error:
            return False


class Follower:
    """Reads the moments of a run as they come."""

    def __init__(self, run: Path) -> None:
        self._path = run / LIVE
        self._place = 0
        self._file: int | None = None
        self._last = 0.0

    def read(self) -> list[Moment]:
        """Those that were written since the last call; at first all that are kept."""
        try:
            with self._path.open("rb") as stream:
                file = self._path.stat().st_ino
                if file != self._file:
                    self._file, self._place = file, 0
                stream.seek(self._place)
                content = stream.read()
        except FileNotFoundError:
            return []
        # A line without an end is still being written.
        whole = content[: content.rfind(b"\n") + 1]
        self._place += len(whole)
        moments = [moment for line in whole.splitlines() if (moment := _moment(line)) is not None]
        # A file that was written anew has lines that are known.
        new = [moment for moment in moments if moment.at > self._last]
        if new:
            self._last = new[-1].at
        return new


def _moment(line: bytes) -> Moment | None:
    """None for what is no line of ours: a full disk may have cut one off."""
    try:
        found: dict[str, Any] = json.loads(line)
        return Moment(**found | {"buckets": tuple(found["buckets"])})
    except (ValueError, TypeError, KeyError):
        return None
