"""The memory of a step, counted, beside what the process really took for it."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from fulldeck.preview.memory_need import LiveMemory, memory_need
from fulldeck.recipe.recipe import make_recipe

REAL = """
import json, sys, tempfile
from pathlib import Path
import torch
from fulldeck.machine import recent_peak, reset_peak
from fulldeck.memory import give_back, memory_in_use
from fulldeck.preview.memory_need import memory_need
from fulldeck.pipeline.run import run
from fulldeck.recipe.recipe import make_recipe
from fulldeck.watchers.watcher import Watcher

CPU = torch.device("cpu")
peaks = []

class Enough(BaseException): pass

class Measured(Watcher):
    def training(self, loop):
        loop.checkpoints, loop.keep_memory = None, False
        loop.on("batch_start", self.begin)
        loop.on("step_end", self.end)
    def begin(self, batch):
        give_back(CPU)
        reset_peak(CPU)
        self.base = memory_in_use(CPU)
    def end(self, batch):
        peaks.append(recent_peak(CPU) - self.base)
        if len(peaks) == 6:
            raise Enough

recipe = make_recipe("stdlib_text", train={"threads": 1, "batch_size": 32})
try:
    run(recipe, out=Path(tempfile.mkdtemp()), watcher=Measured())
except Enough:
    pass
print(json.dumps([sorted(peaks[1:])[2], memory_need(recipe).working]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system's high-water mark is read from /proc")
def test_within_a_tenth_of_what_the_process_took() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "MALLOC_MMAP_THRESHOLD_"}
    done = subprocess.run(
        [sys.executable, "-c", REAL], capture_output=True, text=True, check=True, env=environment
    )
    real, counted = json.loads(done.stdout.splitlines()[-1])
    assert counted == pytest.approx(real, rel=0.1)


def test_a_batch_twice_as_large_needs_more_for_its_activations_alone() -> None:
    small, large = (
        memory_need(make_recipe("digits", train={"threads": 1, "batch_size": size})) for size in (128, 256)
    )
    assert large.batch == 2 * small.batch
    assert (large.weights, large.optimizer_state) == (small.weights, small.optimizer_state)
    assert 1.3 * small.working < large.working < 2 * small.working
    assert small.peak == small.weights + small.optimizer_state + small.batch + small.working


def test_live_memory_knows_what_was_freed() -> None:
    with LiveMemory() as live:
        kept = torch.ones(1000)
        for _ in range(3):
            torch.ones(500).view(5, 100)
        kept += 1
        assert live.live == 4 * 1000
        assert live.peak == 4 * 1500
        nn.functional.relu(kept)
    del kept
    assert live.live == 0
