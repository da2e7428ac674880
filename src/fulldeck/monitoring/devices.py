"""How busy the processor is with some processes, and what its memory moves."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

COUNTERS = Path("/sys/fs/resctrl/mon_data")
"""Where Linux shows the processor's counters of memory traffic, on machines that have them and it is mounted."""


@dataclass(frozen=True)
class Device:
    """One reading of one device; None is what could not be read, which is not the same as 0."""

    name: str
    """`cpu`, `gpu0`, ..."""
    utilisation: float | None
    """Between 0 and 1: of a GPU the share of time in which a kernel ran, of the CPU the share of cores."""
    memory: int | None
    """Bytes in use: of a GPU by everybody, of the CPU resident in these processes."""
    bandwidth: float | None = None
    """Bytes a second to and from memory."""
    estimated: bool = True
    """Whether the bandwidth is an estimate; else hardware has counted it, for all that runs there."""


class Processor:
    """CPU time of processes since the reading before, as a share of `cores`."""

    def __init__(self, counters: Path = COUNTERS) -> None:
        self._counters = counters
        self._known: dict[int, tuple[psutil.Process, float]] = {}
        self._then = time.monotonic()
        self._moved = _moved_bytes(counters)

    def read(
        self,
        processes: Iterable[int],
        cores: int,
        *,
        front: int | None = None,
        estimate: float | None = None,
    ) -> Device:
        """Of the `processes` that live, new ones from their start; None without any. Memory counts `front` too.

        `estimate` is the bandwidth where the processor does not count it.
        """
        now = time.monotonic()
        elapsed, self._then = now - self._then, now
        used, memory = 0.0, 0
        found: dict[int, tuple[psutil.Process, float]] = {}
        for number in processes:
            with contextlib.suppress(psutil.Error):
                process, before = self._known.get(number) or (psutil.Process(number), 0.0)
                times = process.cpu_times()
                total = times.user + times.system
                memory += process.memory_info().rss
                found[number] = (process, total)
                used += max(0.0, total - before)
        if front is not None:
            with contextlib.suppress(psutil.Error):
                memory += psutil.Process(front).memory_info().rss
        self._known = found
        utilisation = min(1.0, used / (elapsed * cores)) if found and elapsed > 0 else None
        counted = self._bandwidth(elapsed)
        bandwidth = estimate if counted is None else counted
        return Device("cpu", utilisation, memory or None, bandwidth, estimated=counted is None)

    def _bandwidth(self, elapsed: float) -> float | None:
        before, self._moved = self._moved, _moved_bytes(self._counters)
        if before is None or self._moved is None or elapsed <= 0 or self._moved < before:
            return None
        return (self._moved - before) / elapsed


def _moved_bytes(counters: Path) -> int | None:
    """Bytes to and from memory since the machine's start; None where they are not counted."""
    try:
        return sum(int(path.read_text()) for path in counters.glob("mon_L3_*/mbm_total_bytes")) or None
    except (OSError, ValueError):
        return None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
