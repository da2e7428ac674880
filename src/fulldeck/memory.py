"""How much memory there is, amounts of it in words, giving unused memory back, and having run out of it."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from fulldeck.errors import BadInput

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)")
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_WAYS = {True: (2**25, -1), None: (2**25, 2**26), False: (2**16, 2**17)}
"""Size from which on a block goes back by itself, and free bytes from which on the rest does; -1: none. Those of
None are what glibc comes to by itself when large blocks are freed."""
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


def keep_freed_memory(keep: bool | None) -> None:
    """Whether the C allocator (glibc's) keeps freed blocks for the next one; None: some, as it does by itself.

    What the system has to give anew costs page faults, in every step that frees and takes some hundred MB. With
    False, what the process holds is what its tensors hold, as with
    MALLOC_MMAP_THRESHOLD_=65536; where that variable is set, all stays as it says.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        size, free = _WAYS[keep]
        libc.mallopt(_MMAP_THRESHOLD, size)
        libc.mallopt(_TRIM_THRESHOLD, free)


@contextmanager
def freed_memory_kept(keep: bool) -> Iterator[None]:
    """Within it `keep_freed_memory(keep)`; afterwards it is as by itself, and what is free goes back."""
    keep_freed_memory(keep)
    try:
        yield
    finally:
        keep_freed_memory(None)
        give_back(torch.device("cpu"))


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
