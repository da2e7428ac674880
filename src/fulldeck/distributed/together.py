"""How processes that train together find each other: what an instruction says of it, before torch is imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Together:
    """`backend` is auto or what torch.distributed calls it, `init_method` an URL as it knows them (None: from the
    environment, as torchrun sets it). `gpu_ids` are the GPUs of this machine's processes, one each; left empty,
    the first ones. `timeout_seconds` is how long one waits for another."""

    backend: str = "auto"
    init_method: str | None = None
    gpu_ids: Sequence[int] = ()
    timeout_seconds: float = 600.0


def launched() -> tuple[int, int]:
    """This process's rank and the number of processes, as a launcher such as torchrun left them."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def local() -> tuple[int, int]:
    """The same among the processes of this machine."""
    rank, world_size = launched()
    return int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", world_size))


def job() -> str | None:
    """What stays the same when a launcher starts its processes anew; None if nothing tells it."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if name in ("", "none") else name


def restarted() -> bool:
    """Whether the launcher says that it has started its processes anew."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
