"""Run by test_ranks.py: forks two ranks, which keep and restore a training in each way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from fulldeck.checkpoints.folder import CheckpointFolder
from fulldeck.distributed.spread_tensor import whole
from fulldeck.errors import BadInput, Terminated
from fulldeck.instructions.training.fault_tolerant_checkpointing import (
    FaultTolerantCheckpointing,
    load_newest,
)
from fulldeck.training.loop import TrainingLoop
from fulldeck.training.state import training_state

KINDS = {"alone": None, "replicas": DistributedDataParallel, "shards": fully_shard}
STORES = ("folder", "last")
STEPS = 2
INPUTS = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS[:, 0] > 0).long()


def training(kind: str, folder: Path, store: str, steps: int = STEPS) -> TrainingLoop:
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    loop = TrainingLoop(
        nn.Sequential(nn.Linear(8, 2049), nn.Tanh(), nn.Linear(2049, 2)),
        [(INPUTS, TARGETS)] * steps,
        nn.functional.cross_entropy,
        device="cpu",
        checkpoints=folder,
    )
    if store == "folder":
        loop.attach(FaultTolerantCheckpointing(), "fault_tolerant_checkpointing")
    if (wrap := KINDS[kind]) is not None:
        loop.wrap_model(wrap)
    return loop


def fit(loop: TrainingLoop, resume: bool = False) -> dict[str, torch.Tensor]:
    """Train; the whole tensors of model and optimizer at the end, by name."""
    states: list[dict[str, torch.Tensor]] = []

    def look() -> None:
        state = training_state(loop)
        states.append(flat({"model": state["model"], "optimizers": state["optimizers"]}))

    loop.on("fit_end", look)
    try:
        loop.fit(resume=resume)
    except AssertionError:  # a sharded model cannot be copied to be handed over
        if not states:
            raise
    return states[0]


def flat(state: Any, place: str = "") -> dict[str, torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return {place: whole(state)}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {name: tensor for key, value in items for name, tensor in flat(value, f"{place}/{key}").items()}


def compared(loop: TrainingLoop, folder: Path) -> str:
    """What differs between a resumed training and the one that was never stopped."""
    state, expected = fit(loop, resume=True), torch.load(folder / "expected.pt", weights_only=True)
    if loop.step != STEPS or state.keys() != expected.keys():
        return f"step {loop.step}, {sorted(state.keys() ^ expected.keys())}"
    # Two ranks with the same batch: their mean is exact but for the order of sums.
    wrong = [name for name in expected if not torch.allclose(expected[name], state[name], atol=1e-6)]
    return f"differ: {wrong}" if wrong else "equal"


def rank(number: int, folder: Path) -> None:
    rendezvous = dist.FileStore(str(folder / "rendezvous"), 2)
    dist.init_process_group(
        "gloo", store=rendezvous, rank=number, world_size=2, timeout=timedelta(seconds=60)
    )
    found: dict[str, Any] = {}
    for kind in ("replicas", "shards"):
        for store in STORES:
            fit(training(kind, folder / store / kind, store))
    for store in STORES:
        for wrote in KINDS:
            for reads in ("replicas", "shards"):
                place = folder / f"{store} {wrote} {reads}"
                if number == 0:
                    shutil.copytree(folder / store / wrote, place)
                dist.barrier()
                found[f"{store} {wrote} to {reads}"] = compared(training(reads, place, store), folder)
    sigterm(number, folder / "sigterm", found)
    refusals(number, folder / "refused", found)
    (folder / f"rank{number}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def sigterm(number: int, folder: Path, found: dict[str, Any]) -> None:
    """Rank 1 gets it. Each rank draws numbers of its own, and goes on drawing where it was."""
    loop = training("replicas", folder, "folder", steps=50)
    loop.on("ready", lambda: torch.manual_seed(number))
    if number == 1:
        loop.on("batch_start", lambda batch: signal.raise_signal(signal.SIGTERM) if loop.step == 5 else None)
    try:
        loop.fit()
    except Terminated as end:
        found["ended"] = str(end)
    before, draws = torch.rand(1).item(), []
    again = training("replicas", folder, "folder", steps=50)
    again.on("batch_start", lambda batch: draws.append(torch.rand(1).item()))
    again.fit(resume=True)
    found["random"] = [before, draws[0]]


def refusals(number: int, folder: Path, found: dict[str, Any]) -> None:
    """Rank 1 cannot write its shard; then somebody holds the folder."""
    state = {"weight": torch.ones(4), "bias": torch.ones(3)}
    with CheckpointFolder(folder) as kept:
        kept.save(1, state, wait=True)
        if number == 1:
            (folder / "step-00000002" / "shard-1.safetensors" / "in the way").mkdir(parents=True)
        dist.barrier()
        try:
            kept.save(2, state, wait=True)
        except BadInput as error:
            found["refused"] = str(error)
        newest = kept.newest()
        assert newest is not None
        found["kept after"] = newest[0]
    other = CheckpointFolder(folder)
    if number == 0:
        other.store.lock()
    try:
        with CheckpointFolder(folder):
            pass
    except BadInput as error:
        found["held"] = str(error)
    other.store.unlock()


def forked(number: int, folder: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            rank(number, folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    for store in STORES:
        torch.save(fit(training("alone", folder / store / "alone", store)), folder / "expected.pt")
    children = [forked(number, folder) for number in (0, 1)]
    codes = [os.waitpid(child, 0)[1] for child in children]
    if any(codes):
        sys.exit(1)
    found = json.loads((folder / "rank0.json").read_text())
    for store in STORES:
        for wrote in KINDS:
            found[f"{store} {wrote} to alone"] = compared(
                training("alone", folder / store / wrote, store), folder
            )
    for kind in KINDS:
        assert load_newest(folder / "folder" / kind)[0] == STEPS
        newest = folder / "folder" / kind / f"step-{STEPS:08d}"
        found[f"bytes {kind}"] = [file.stat().st_size for file in sorted(newest.glob("shard-*"))]
    (folder / "rank0.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
