"""Several processes of one run on this machine: what `fulldeck run --nproc N` starts, by torch's elastic agent.

It is what torchrun does, with two differences: only a run that lost a process is started anew (bad input stays
bad), and no port is asked for.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence

from fulldeck.cli.several import LAUNCHED, LOST
from fulldeck.device import cpu_threads
from fulldeck.errors import BadInput, RunFailed

LAST_WORDS = 30
"""Seconds that processes have to end once one of them has, or the launcher was told to: those in which they may keep
their state (fault_tolerant_checkpointing's `grace_seconds`), and some more."""


def processes(recipe: str, settings: list[str], wanted: int | None) -> tuple[int, list[str]]:
    """How many processes a run has, and its settings.

    So many are `wanted`; if none are, one, or as many as its recipe names GPUs. With --nproc a recipe that says
    nothing of several processes is distributed. Raises BadInput as reading the recipe does, and in a process that
    another launcher has started already.
    """
    from fulldeck.distributed.together import launched
    from fulldeck.pipeline.run import situation, together
    from fulldeck.planner import make_plan
    from fulldeck.recipe.reader import read_recipe

    _, there = launched()
    if there > 1:
        if wanted is not None:
            raise BadInput(f"this is one of {there} processes of another launcher; leave --nproc out")
        return 1, settings
    made = read_recipe(recipe, settings)
    offer = together(make_plan(made, situation(made)))
    if offer is None and wanted is not None:
        return wanted, [*settings, "distributed={}"]
    return wanted or max(len(offer.gpu_ids) if offer is not None else 1, 1), settings


def launch(
    arguments: Sequence[str], processes: int, restarts: int, tell: Callable[[str], None] = lambda text: None
) -> int:
    """Run `fulldeck` with `arguments` in so many processes; return the exit code of all together.

    If one of them is lost, all are started anew, up to `restarts` times, and go on from the last checkpoint.
    `tell` gets a line where that happens. Raises RunFailed once it has happened too often.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(cpu_threads() // processes, 1)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # it writes a page for a connection that is retried
    os.environ[LAUNCHED] = str(processes)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    name = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as logs:
        for again in range(restarts + 1):
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=processes,
                run_id=name,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                max_restarts=0,
                shutdown_timeout=LAST_WORDS,
                logs_specs=DefaultLogsSpecs(log_dir=logs),
            )
            try:
                elastic_launch(config, sys.executable)("-m", "fulldeck", *arguments)
            except ChildFailedError as error:
                codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            except SignalException:
                return 130
            else:
                return 0
            if (lost := _lost(codes)) is None:
                return next(code for code in codes.values() if code > 0)
            if again < restarts:
                tell(f"{lost}; going on from the last checkpoint (restart {again + 1} of {restarts})")
    raise RunFailed(f"{lost}; go on with --resume")


def _lost(codes: dict[int, int]) -> str | None:
    """In words who was lost; None if nobody was: then a process has said why it ended."""
    for rank, code in codes.items():
        # The agent ends by SIGTERM those that are left.
        if code < 0 and -code != signal.SIGTERM:
            return f"rank {rank} was killed by {signal.Signals(-code).name}"
    if any(code == LOST for code in codes.values()):
        return "a rank was lost"
    killed = [rank for rank, code in codes.items() if code < 0]
    return f"rank {killed[0]} was killed by SIGTERM" if len(killed) == len(codes) else None
