"""Two ranks, or more, that share one import of torch: what they find is left in a file each, as JSON."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fulldeck.distributed.process_group import leave
from fulldeck.distributed.together import Together

PATIENCE = 60.0


def meeting(folder: Path) -> Together:
    """Where the two meet."""
    return Together("gloo", f"file://{folder.absolute()}/rendezvous", timeout_seconds=PATIENCE)


def fork(rank: int, world_size: int, work: Callable[[int], Any], file: Path) -> int:
    """A child that is one rank, does `work(rank)` and writes what it returns to `file`."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
            torch.set_num_threads(1)
            file.write_text(json.dumps(work(rank)))
            leave()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def in_all(work: Callable[[int], Any], folder: Path, ranks: int) -> list[Any]:
    """What `work(rank)` returns on each of the ranks, which meet in `folder`. Raises RuntimeError if one fails."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"rank{rank}.json" for rank in range(ranks)]
    children = [fork(rank, ranks, work, file) for rank, file in enumerate(files)]
    codes = [os.waitpid(child, 0)[1] for child in children]  # of all, before anything is said
    if any(codes):
        raise RuntimeError(f"a rank failed in {folder}")
    return [json.loads(file.read_text()) for file in files]


def in_two(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """The same for two."""
    return in_all(work, folder, 2)
