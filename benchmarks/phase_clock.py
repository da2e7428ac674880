"""What the always-on clock of the phases costs in each step.

    python benchmarks/phase_clock.py [--rounds 30]

How often a step reads the clock is counted, in a plain loop and in one with ten instructions that listen to every
event; what one reading with its bookkeeping costs is timed alone, on one thread. Their product is the cost, which
lies far below what two runs of a loop, with and without, could tell apart. Goal: at most 0.5 % of a step of 1 ms.
Results: `benchmarks/results/phase_clock.json`.
"""

from __future__ import annotations

import argparse
import statistics
import time
import timeit
from types import SimpleNamespace

import torch
from loop_overhead import EVENTS, Batches, Nothing, network
from machine import describe, write_result
from torch import nn

import fulldeck.training.loop as loop_module
from fulldeck.training.loop import TrainingLoop

STEPS, REPEATS = 200, 100_000
GOAL_SHARE = 0.005
READING = "clock[3] += now() - start"


def readings(listening: int) -> float:
    """How often the loop reads the clock in a step, with so many that listen: the slope over the steps."""
    counts = []
    for steps in (STEPS, 2 * STEPS):
        called = 0

        def perf_counter() -> float:
            nonlocal called
            called += 1
            return time.perf_counter()

        loop_module.time = SimpleNamespace(perf_counter=perf_counter)  # type: ignore[assignment]
        try:
            loop = TrainingLoop(network(), Batches(steps), nn.functional.cross_entropy, device="cpu")
            for number in range(listening):
                Nothing(EVENTS[number % len(EVENTS)]).attach(loop)
            loop.fit()
        finally:
            loop_module.time = time
        counts.append(called)
    return (counts[1] - counts[0]) / STEPS


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = {"clock": [0.0] * 7, "now": time.perf_counter, "start": time.perf_counter()}
    timed = [timeit.timeit(READING, globals=names, number=REPEATS) for _ in range(options.rounds)]
    cost = 1e6 * statistics.median(timed) / REPEATS
    results = {}
    for name, listening in (("plain", 0), ("ten instructions", 10)):
        count = readings(listening)
        share = cost * count / 1000
        results[name] = {
            "readings_a_step": count,
            "us_a_step": round(cost * count, 3),
            "share_of_1_ms": share,
        }
        met = "met" if share <= GOAL_SHARE else "not met"
        print(
            f"{name:18} {count:.0f} readings, {cost * count:.2f} us a step: {share:.2%} of 1 ms, goal {met}"
        )
    print(
        write_result("phase_clock", {"machine": describe(), "us_a_reading": round(cost, 4), "loops": results})
    )


if __name__ == "__main__":
    main()
