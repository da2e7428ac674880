"""What machine and versions a figure was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from fulldeck import __version__

_VERSIONS = ("torch", "numpy", "onnx", "onnxruntime")
_peaks_before: dict[str, int] = {}
"""By type of device, what `reset_peak` made the system forget."""


def describe_machine() -> dict[str, Any]:
    """Processor, cores, threads in use, accelerator, load and versions, as plain JSON."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": None if accelerator is None else str(accelerator),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {"fulldeck": __version__, "python": platform.python_version(), **_installed()},
    }


def revision() -> str | None:
    """The git commit that last changed fulldeck's own source, with a + if it was changed since; None outside a
    checkout."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git("log", "-1", "--format=%h", "--abbrev=12", "--", ".")
        return commit + ("+" if _git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def peak_memory(device: torch.device) -> int:
    """Most bytes that were in use at once: by tensors of an accelerator, else by this whole process."""
    return max(recent_peak(device), _peaks_before.get(device.type, 0))


def recent_peak(device: torch.device) -> int:
    """The same since the last `reset_peak`."""
    if device.type != "cpu":
        return int(torch.accelerator.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return int(psutil.Process().memory_info().rss)


def reset_peak(device: torch.device) -> None:
    """Let `recent_peak` begin with what is in use now (on a CPU: Linux only)."""
    _peaks_before[device.type] = peak_memory(device)
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)
        return
    resets = Path("/proc/self/clear_refs")
    if resets.is_file():
        resets.write_text("5")  # the kernel's code for "forget the high-water mark"


def resident_memory(process: int) -> int:
    """Bytes that a process and its children hold now; what they share is counted for each."""
    top = psutil.Process(process)
    return sum(one.memory_info().rss for one in (top, *top.children(recursive=True)))


def processor() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _installed() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
