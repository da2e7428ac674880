"""The device to work on, and how many processor cores."""

from __future__ import annotations

import os

import torch

from fulldeck.distributed.together import local
from fulldeck.errors import BadInput


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the machine's accelerator, else the CPU. Raises BadInput for a device that is not here."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput(f'unknown device "{name}"; write auto, cpu or cuda') from None
    if device.type != "cpu" and (accelerator is None or device.type != accelerator.type):
        there = f"cpu and {accelerator.type}" if accelerator else "only cpu"
        raise BadInput(f'device "{name}" is not here; there is {there}')
    return device


def cpu_threads() -> int:
    """OMP_NUM_THREADS if it is set, else the cores that this process may use, shared with those beside it.

    Not what torch says at the moment: results depend on the number of threads in their last bits, so it must
    not depend on what else ran in this process.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted):
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    _, here = local()
    return max(cores // here, 1)
