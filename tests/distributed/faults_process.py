"""Run by test_faults.py: two ranks, one of which is lost in one way after the other."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import fulldeck
from fulldeck.distributed.process_group import joined
from fulldeck.distributed.ranks import Ranks
from fulldeck.errors import BadInput, LostRank, SaidElsewhere
from fulldeck.pipeline.rank_agreement import refuse_other_data, refuse_other_model, refuse_other_work
from tests.distributed.parity_process import CASES, rows, training
from tests.distributed.two_ranks import fork, meeting

PATIENCE = 4.0
RECIPE = "workload: digits\ntrain:\n  epochs: {}\n"


def trained(rank: int, folder: Path, at_step_5: Callable[[], object]) -> None:
    """A training in which the second rank does something after its fifth step."""
    loop = training(replace(CASES["plain"], epochs=50), "replicas", folder)
    if rank == 1:
        loop.on("batch_start", lambda batch: at_step_5() if loop.step == 5 else None)
    loop.fit()


def stop_for_a_while() -> None:
    process = os.getpid()
    if os.fork() == 0:  # somebody has to let it go on, or it would outlive the test
        time.sleep(PATIENCE + 8)
        os.kill(process, signal.SIGCONT)
        os._exit(0)
    os.kill(process, signal.SIGSTOP)


def fail() -> None:
    raise BadInput("its disk is full")


def other_recipe(rank: int, ranks: Ranks) -> None:
    refuse_other_work(ranks, RECIPE.format(3 + rank))


def other_version(rank: int, ranks: Ranks) -> None:
    if rank == 1:
        fulldeck.__version__ = "0.0.1"
    refuse_other_work(ranks, RECIPE.format(3))


def other_data(rank: int, ranks: Ranks) -> None:
    data = rows()
    if rank == 1:
        data = replace(data, train=data.train.take(range(1, len(data.train))))
    refuse_other_data(ranks, data)


def other_model(rank: int, ranks: Ranks) -> None:
    refuse_other_model(ranks, torch.nn.Linear(4, 2 + rank))


FAULTS: dict[str, Callable[[int, Path, Ranks], None]] = {
    "killed": lambda rank, folder, ranks: trained(rank, folder, lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "stopped": lambda rank, folder, ranks: trained(rank, folder, stop_for_a_while),
    "failed": lambda rank, folder, ranks: trained(rank, folder, fail),
    "another recipe": lambda rank, folder, ranks: other_recipe(rank, ranks),
    "another version": lambda rank, folder, ranks: other_version(rank, ranks),
    "other data": lambda rank, folder, ranks: other_data(rank, ranks),
    "another model": lambda rank, folder, ranks: other_model(rank, ranks),
}


def said(rank: int, folder: Path, fault: Callable[[int, Path, Ranks], None]) -> dict[str, Any]:
    """How this rank ended: the kind of its error, its words, and how long it took."""
    begun = time.monotonic()
    try:
        with joined(replace(meeting(folder), timeout_seconds=PATIENCE), "cpu") as ranks:
            fault(rank, folder, ranks)
    except (BadInput, LostRank, SaidElsewhere) as error:
        return {"kind": type(error).__name__, "words": str(error), "seconds": time.monotonic() - begun}
    return {"kind": "none", "words": "", "seconds": time.monotonic() - begun}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    found: dict[str, Any] = {}

    def of(name: str) -> None:
        place = folder / name
        place.mkdir()
        files = [place / f"rank{rank}.json" for rank in (0, 1)]
        children = [
            fork(rank, 2, lambda rank: said(rank, place, FAULTS[name]), file)
            for rank, file in enumerate(files)
        ]
        os.waitpid(children[0], 0)
        if name == "stopped":
            os.kill(children[1], signal.SIGKILL)
        os.waitpid(children[1], 0)
        found[name] = [json.loads(file.read_text()) if file.exists() else None for file in files]
        found[name].append(children)

    for name in FAULTS:
        of(name)
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
