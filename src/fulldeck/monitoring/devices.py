"""How busy the hardware is: NVML for NVIDIA's GPUs (extra `gpu`), and the processes' own CPU time."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil


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
    """Bytes a second to and from memory, estimated."""


class Processor:
    """CPU time of processes since the reading before, as a share of `cores`."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[psutil.Process, float]] = {}
        self._then = time.monotonic()

    def read(self, processes: Iterable[int], cores: int, *, front: int | None = None) -> Device:
        """Of the `processes` that live, new ones from their start; None without any. Memory counts `front` too."""
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
        return Device("cpu", utilisation, memory or None)


class Gpus:
    """NVIDIA's GPUs through NVML; none where its library or a driver is missing."""

    def __init__(self) -> None:
        self._nvml: Any = None
        if importlib.util.find_spec("pynvml") is None:
            return
        import pynvml

        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            self._nvml = pynvml

    def read(self) -> list[Device]:
        """All that are there; what a device refuses to tell is None."""
        return [] if self._nvml is None else list(self._devices())

    def _devices(self) -> Iterator[Device]:
        nvml = self._nvml
        for number in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            busy = memory = bandwidth = None
            with contextlib.suppress(nvml.NVMLError):
                rates = nvml.nvmlDeviceGetUtilizationRates(handle)
                busy = rates.gpu / 100
                bandwidth = rates.memory / 100 * self._peak(handle)
            with contextlib.suppress(nvml.NVMLError):
                memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
            yield Device(f"gpu{number}", busy, memory, bandwidth)

    def _peak(self, handle: Any) -> float:
        """Bytes a second that the memory could move: two transfers a clock on a bus of so many bits."""
        nvml = self._nvml
        clock = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6
        return float(2 * clock * nvml.nvmlDeviceGetMemoryBusWidth(handle) / 8)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
