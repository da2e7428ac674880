"""Two processes of one training, one of which is killed: what torture.py does with --rank-points.

They are replicas (DistributedDataParallel on gloo) with data and dropout of their own. The other one has to
notice and end by itself; then both are started again, as an elastic launcher does.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torture import Seen, Tally, compare, forked, newest_step, state_values, told

from fulldeck.files import tidy
from fulldeck.instructions.training.fault_tolerant_checkpointing import FaultTolerantCheckpointing
from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.instructions.training.weight_averaging import WeightAveraging
from fulldeck.training.loop import TrainingLoop
from fulldeck.weights import save_weights

RANKS = 2
PATIENCE = 60.0
"""Seconds after which a rank that has not noticed the end of the other counts as hung."""


def train(rank: int, out: Path, rendezvous: Path) -> None:
    """One rank's training in `out`, gone on with where it was."""
    store = dist.FileStore(str(rendezvous), RANKS)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=PATIENCE / 4)
    )
    if rank == 0:
        tidy(out)  # as the folder of a run does before it goes on
    generator = torch.Generator().manual_seed(rank)
    inputs = torch.randn(96, 16, generator=generator)
    data = torch.utils.data.TensorDataset(inputs, (inputs[:, 0] > 0).long())
    torch.manual_seed(0)
    loop = TrainingLoop(
        nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 2)),
        torch.utils.data.DataLoader(data, batch_size=8, shuffle=True),
        nn.functional.cross_entropy,
        instructions=[
            LrScheduler(),
            WeightAveraging(decay=0.9),
            FaultTolerantCheckpointing(every_steps=2, folder=str(out / "checkpoints")),
        ],
        epochs=2,
        device="cpu",
    )
    loop.wrap_model(DistributedDataParallel)
    loop.on("ready", lambda: torch.manual_seed(rank))
    model = loop.fit(resume=True)
    if rank == 0:
        save_weights(model, out / "weights.safetensors")
    dist.destroy_process_group()


def both(
    out: Path, victim: int = 0, *, after: float | None = None, before: int | None = None
) -> tuple[list[int | None], list[int], int]:
    """Run both ranks, and kill the victim; how each ended (None: hung), steps complete, operations of rank 0."""
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = Path(folder) / "rendezvous"
        kills = [before if rank == victim else None for rank in range(RANKS)]
        with (
            forked(lambda: train(0, out, rendezvous), kills[0]) as (first, reading),
            forked(lambda: train(1, out, rendezvous), kills[1]) as (second, _),
        ):
            if after is not None:
                time.sleep(after)
                os.kill((first, second)[victim], signal.SIGKILL)
            ended = [_ended(child) for child in (first, second)]
            steps, words = told(reading)
    return ended, steps, int(words.get("operations", 0))


def _ended(child: int) -> int | None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def look(out: Path) -> Seen:
    """The values and the files in `out`."""
    values = state_values(out / "checkpoints")
    values["weights"] = (out / "weights.safetensors").read_bytes()
    return Seen(values, sorted(str(path.relative_to(out)) for path in out.rglob("*")))


def torture_ranks(
    points: int, *, seed: int = 0, tell: Callable[[str], object] = lambda text: None
) -> dict[str, Any]:
    """Kill one of two ranks at `points` points; the tally, and what an undisturbed training is."""
    chance, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as folder:
        both(Path(folder) / "warm")
        begun = time.perf_counter()
        ended, _, operations = both(Path(folder) / "reference")
        seconds = time.perf_counter() - begun
        assert ended == [0, 0], ended
        reference = look(Path(folder) / "reference")
        for number in range(points):
            out, victim = Path(folder) / f"point-{number}", chance.randrange(RANKS)
            between = chance.random() < 0.5
            after = None if between else chance.uniform(0, seconds)
            # Rank 1 writes no manifests: about half as much.
            before = chance.randint(1, operations // (1 + victim)) if between else None
            where = f"point {number}, rank {victim}, " + (
                f"operation {before}" if between else f"{after:.3f} s"
            )
            ended, steps, _ = both(out, victim, after=after, before=before)
            tally.points += 1
            if ended[victim] == -signal.SIGKILL:
                tally.killed_between_file_operations += between
                tally.killed_in_time += not between
            else:
                tally.ended_before_the_kill += 1
            if None in ended:
                tally.note("lost", f"{where}: the other rank did not notice")
            there = newest_step(out / "checkpoints")
            tally.killed_before_a_checkpoint += there is None
            if steps and (there is None or there < max(steps)):
                tally.note("lost", f"{where}: step {max(steps)} was complete, {there} can be read")
            ended, _, _ = both(out)
            if ended != [0, 0]:
                tally.note("lost", f"{where}: it cannot go on: {ended}")
            else:
                compare(look(out), reference, where, tally)
            tell(f"two ranks, point {number + 1} of {points}: {tally.summary()}")
    return asdict(tally) | {"run_seconds": seconds, "file_operations": operations}
