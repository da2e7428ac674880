"""How much memory there is, amounts of it in words, giving unused memory back, and having run out of it."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

import psutil
import torch

from fulldeck.errors import BadInput

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)")
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
_LARGEST_THRESHOLD = 2**25
"""That glibc comes to by itself when large blocks are freed."""
_RAN_OUT = ("out of memory", "can't allocate memory")


def memory_in_use(device: torch.device) -> int:
    """Bytes that tensors hold on an accelerator; on a CPU those of this whole process."""
    if device.type != "cpu":
        return int(torch.accelerator.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def memory_limit(device: torch.device) -> int:
    """Bytes that this process could have: what it holds, and what is free (in its container, on a CPU)."""
    if device.type != "cpu":
        free, _ = torch.accelerator.get_memory_info(device)
        return int(free) + int(torch.accelerator.memory_reserved(device))
    limits = [path.read_text().strip() for path in map(Path, _CGROUP_LIMITS) if path.is_file()]
    there = int(psutil.virtual_memory().available) + memory_in_use(device)
    return min([there, *(int(limit) for limit in limits if limit.isdigit())])


def give_back(device: torch.device) -> None:
    """Return what is allocated and not used: to the accelerator, or to the system (glibc keeps it)."""
    if device.type != "cpu":
        torch.accelerator.empty_cache()
    elif sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def keep_freed_memory(keep: bool) -> None:
    """Whether the C allocator keeps large freed blocks for the next one, as it does by itself (glibc).

    Without, what the process holds is what its tensors hold, as with MALLOC_MMAP_THRESHOLD_=65536, and new
    blocks cost page faults. Where that variable is set, it stays as it says.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD if keep else 2**16)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD if keep else 2**17)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory could not be had, on an accelerator or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _RAN_OUT)


def parse_bytes(text: str) -> int:
    """`2GiB`, `500 MB` or `1.5GiB` in bytes. Raises BadInput for anything else, and for nothing."""
    match = _AMOUNT.fullmatch(text)
    if match is None or match[2] not in _UNITS or float(match[1]) == 0:
        raise BadInput(
            f'an amount of memory is a number with {", ".join(_UNITS)}, such as 2GiB; got "{text}"'
        )
    return int(float(match[1]) * _UNITS[match[2]])


def spoken_bytes(count: float) -> str:
    """In words that `parse_bytes` reads, rounded up: `713MiB`, `1.5GiB`."""
    if count < 2**30:
        return f"{-(-int(count) // 2**20)}MiB"
    return f"{-(-int(10 * count) // 2**30) / 10:g}GiB"
