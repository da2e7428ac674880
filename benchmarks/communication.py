"""What a training step of two processes waits for the exchange of gradients, and what makes it less.

    python benchmarks/communication.py [--rounds 12]

A GPT-2-like model on the docstrings of Python, batch 16 in four parts of each process, one thread a process, gloo. All
arms live in the same two processes and take turns in random order:

- plain: DDP by itself, which exchanges gradients after each part
- once: distributed_data_parallel's default, which exchanges them with the last part
- once_bfloat16, once_float16: the same, with gradients exchanged in 16 bits
- local_8: local SGD, weights and moments averaged every eight steps; another training, so its loss is another one

Measured are the step, and of it the exposed communication: what the backward pass waits for the others after its own
gradients are done, and the exchange of the loss. Beside them, alone: one process with one thread and with two, on the
same batch. Every arm's loss is compared with plain's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from machine import describe, write_result
from rounds import interleaved, median, ratio

from fulldeck.data import Data
from fulldeck.instructions.training.distributed_data_parallel import DistributedDataParallel
from fulldeck.pipeline.splitting import with_default_split
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop
from fulldeck.training.step_clock import COMMUNICATION
from fulldeck.workload import encoded
from fulldeck.workloads import make_workload

WORKLOAD = {
    "kind": "stdlib_text",
    "tokenizer": "bytes",
    "length": 32,
    "width": 128,
    "layers": 2,
    "characters": 200_000,
}
BATCH, PARTS, STEPS, WARM_UP = 16, 4, 8, 1
ARMS: dict[str, dict[str, Any]] = {
    "plain": {"exchange": "every"},
    "once": {},
    "once_bfloat16": {"compression": "bfloat16"},
    "once_float16": {"compression": "float16"},
    "local_8": {"average_every": 8},
}


class Arm:
    """One training, a few steps at a time."""

    def __init__(self, data: Data, workload: Any, exchange: dict[str, Any] | None, meeting: str) -> None:
        torch.manual_seed(0)
        assert data.encoder is not None
        share = BATCH if exchange is None else BATCH // 2
        self.loop = loop = TrainingLoop(
            workload.model(data),
            BatchLoader(data.train, data.encoder, BATCH, ShuffledSampler(len(data.train), 0)),
            workload.loss(data),
            micro_batch=share // PARTS,
            device="cpu",
            optimizer=workload.optimizer(1e-3, 0.01),
        )
        if exchange is not None:
            loop.attach(DistributedDataParallel(init_method=meeting, **exchange), "distributed_data_parallel")
        loop._bind()
        loop.module = loop._wrapped()
        loop.optimizers = loop.build_optimizers(loop.parameters())
        loop.module.train()
        self.batches = cycle(list(loop.batches(0))[: WARM_UP + 40])
        self.losses: list[float] = []
        self.run(WARM_UP)

    def run(self, steps: int = STEPS) -> tuple[float, float]:
        """Milliseconds of a step, and of exposed communication in it."""
        self.loop.clock.reset()
        begun = time.perf_counter()
        for _ in range(steps):
            self.loop.run_step(next(self.batches))
            self.loop.step += 1
        seconds = time.perf_counter() - begun
        assert self.loop.last_loss is not None
        self.losses.append(float(self.loop.last_loss.detach()))
        return 1000 * seconds / steps, 1000 * self.loop.clock.seconds[COMMUNICATION] / steps


def rank(number: int, data: Data, workload: Any, folder: Path, rounds: int) -> None:
    """One of the two processes; the first one writes what it measured."""
    os.environ.update(RANK=str(number), WORLD_SIZE="2")
    torch.set_num_threads(1)
    arms = {
        name: Arm(data, workload, settings, f"file://{folder}/meeting") for name, settings in ARMS.items()
    }
    figures = interleaved({name: arm.run for name, arm in arms.items()}, rounds)
    if number == 0:
        parameters = sum(parameter.numel() for parameter in arms["plain"].loop.parameters())
        losses = {name: arm.losses for name, arm in arms.items()}
        (folder / "found.json").write_text(
            json.dumps({"figures": figures, "losses": losses, "parameters": parameters})
        )


def alone(data: Data, workload: Any, threads: int, rounds: int) -> dict[str, Any]:
    """One process with the same batch."""
    torch.set_num_threads(threads)
    arm = Arm(data, workload, None, "")
    return median([arm.run()[0] for _ in range(rounds)])


def forked(work: Any) -> int:
    """A child that does it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    return child


def main() -> None:
    """Print the table, and write results/communication.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    workload = make_workload(WORKLOAD)
    data = encoded(workload, with_default_split(workload.load(), 0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        children = [
            forked(lambda number=number: rank(number, data, workload, folder, options.rounds))
            for number in (0, 1)
        ]
        if any([os.waitpid(child, 0)[1] for child in children]):  # noqa: C419
            raise SystemExit("a process failed")
        found = json.loads((folder / "found.json").read_text())
    steps = {arm: [one[0] for one in rounds] for arm, rounds in found["figures"].items()}
    waits = {arm: [one[1] for one in rounds] for arm, rounds in found["figures"].items()}
    table = {
        arm: {
            "step_ms": median(steps[arm]),
            "communication_ms": median(waits[arm]),
            "communication_share": statistics.median(
                w / s for w, s in zip(waits[arm], steps[arm], strict=True)
            ),
            "communication_of_plain": ratio(waits[arm], waits["plain"]),
            "step_of_plain": ratio(steps[arm], steps["plain"]),
            "largest_difference_of_loss": max(
                abs(one - other)
                for one, other in zip(found["losses"][arm], found["losses"]["plain"], strict=True)
            ),
        }
        for arm in ARMS
    }
    single = {f"one_process_{threads}_threads": alone(data, workload, threads, 5) for threads in (1, 2)}
    result = {
        "machine": describe(),
        "rounds": options.rounds,
        "steps_a_round": STEPS,
        "parameters": found["parameters"],
        "arms": table,
        "alone_step_ms": single,
    }
    for arm, row in table.items():
        step, waited = row["step_ms"]["median"], row["communication_ms"]["median"]
        print(
            f"{arm:15} step {step:7.1f} ms  communication {waited:6.1f} ms ({row['communication_share']:.0%})  "
            f"{row['communication_of_plain']['median']:.2f}x of plain  "
            f"loss within {row['largest_difference_of_loss']:.1e}"
        )
    print(single)
    print(f"written to {write_result('communication', result)}")


if __name__ == "__main__":
    main()
