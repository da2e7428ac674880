"""How far the memory estimate of `fulldeck plan --hardware` is from what a process takes.

    python benchmarks/memory_need.py [--data DIR] [--only WORD ...] [--add]

Each case is a recipe, in a fresh process in which freed memory goes back at once: the estimate counts the tensors of
the second step, the measurement is the system's high-water mark over five later steps (the median), above the level
when the batch was there. Both are of what a step takes beyond weights, optimizer state and batch: `error` is the
estimate over the measurement, less one. `error_in_all` is the same with these, which are exact, on both sides. What is
missed is what kernels take for themselves. DIR holds `fashion_mnist.npz`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, describe, write_result

from fulldeck.machine import recent_peak, reset_peak
from fulldeck.memory import give_back, memory_in_use
from fulldeck.pipeline.run import run
from fulldeck.preview.memory_need import memory_need
from fulldeck.recipe.reader import read_recipe
from fulldeck.training.batch import Batch
from fulldeck.training.loop import TrainingLoop
from fulldeck.watchers.watcher import Watcher

NAME = "memory_need"
GOAL = "within 10 %"
CPU = torch.device("cpu")
STEPS = 6
CASES: dict[str, str] = {
    "language model": "workload: stdlib_text\ntrain: {batch_size: 32}\n",
    "language model, recomputed": (
        "workload: stdlib_text\ntrain: {batch_size: 32}\ninstructions: [gradient_checkpointing]\n"
    ),
    "language model, bfloat16": (
        "workload: stdlib_text\ntrain: {batch_size: 32}\ninstructions: [{amp_optimizer: {dtype: bfloat16}}]\n"
    ),
    "residual net, digits": "workload: digits\ntrain: {batch_size: 512}\n",
    "residual net, digits, averaged": (
        "workload: digits\ntrain: {batch_size: 512}\ninstructions: [weight_averaging, lr_scheduler]\n"
    ),
    "mobile net, digits": "workload: {kind: digits, network: mobile_net}\ntrain: {batch_size: 512}\n",
    "residual net, Fashion-MNIST": (
        "workload: {kind: images, path: DIR/fashion_mnist.npz}\ntrain: {batch_size: 256}\n"
    ),
}


class Enough(BaseException):
    """It is measured."""


class Measured(Watcher):
    """The high-water mark of each step."""

    def __init__(self) -> None:
        self.peaks: list[int] = []

    def training(self, loop: TrainingLoop) -> None:
        loop.checkpoints, loop.keep_memory = None, False
        loop.on("batch_start", self._begin)
        loop.on("step_end", self._end)

    def _begin(self, batch: Batch) -> None:
        give_back(CPU)
        reset_peak(CPU)
        self.level = memory_in_use(CPU)

    def _end(self, batch: Batch) -> None:
        self.peaks.append(recent_peak(CPU) - self.level)
        if len(self.peaks) == STEPS:
            raise Enough


def case(text: str) -> dict[str, Any]:
    """The measurement and the estimate, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "case.yaml"
        file.write_text(text)
        recipe = read_recipe(file, ["train.threads=1"])
        watcher = Measured()
        with contextlib.suppress(Enough):
            run(recipe, out=Path(folder), watcher=watcher)
        need = memory_need(recipe)
    measured = sorted(watcher.peaks[1:])[(STEPS - 1) // 2]
    mib = 2**20
    return {
        "measured_mib": measured / mib,
        "estimate_mib": need.working / mib,
        "error": need.working / measured - 1,
        "weights_mib": need.weights / mib,
        "optimizer_mib": need.optimizer_state / mib,
        "kept_mib": need.kept / mib,
        "batch_mib": need.batch / mib,
        "in_all_mib": need.peak / mib,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="cases whose names have one of these words")
    parser.add_argument("--add", action="store_true", help="go on with the result that there is")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.case is not None:
        print(json.dumps(case(chosen.case)))
        return
    path = RESULTS / f"{NAME}.json"
    found: dict[str, Any] = json.loads(path.read_bytes())["cases"] if chosen.add and path.exists() else {}
    environment = {key: value for key, value in os.environ.items() if key != "MALLOC_MMAP_THRESHOLD_"}
    for name, text in CASES.items():
        if name in found or (chosen.only and not any(word in name for word in chosen.only)):
            continue
        if "DIR" in text:
            if chosen.data is None:
                continue
            text = text.replace("DIR", str(chosen.data.resolve()))
        done = subprocess.run(
            [sys.executable, __file__, "--case", text],
            capture_output=True,
            text=True,
            check=False,
            env=environment | {"OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-1500:]}")
        found[name] = json.loads(done.stdout.splitlines()[-1])
        keep(found)
    keep(found)
    for name, one in found.items():
        print(f"{name:<34}{one}")


def keep(found: dict[str, Any]) -> None:
    """Write what was found so far."""
    for one in found.values():
        besides = one["in_all_mib"] - one["estimate_mib"]
        one["error_in_all"] = one["in_all_mib"] / (one["measured_mib"] + besides) - 1
    largest = {
        f"largest_{name}": max(abs(one[name]) for one in found.values()) for name in ("error", "error_in_all")
    }
    write_result(NAME, {"machine": describe(), "goal": GOAL, **largest, "cases": found})


if __name__ == "__main__":
    main()
