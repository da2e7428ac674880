"""Steps to a target accuracy: a constant rate, lr_scheduler as it is, and OneCycleLR tuned by hand.

    python benchmarks/lr_schedules.py --data DIR [--seeds 5] [--add]

DIR holds `fashion_mnist.npz`. A small residual net learns Fashion-MNIST (batch 128, AdamW, its rate 2e-3 as the
workload `images` has it) until 86 % of the test images are right. A schedule has to know its length, so each is
trained from the beginning for every length of a ladder, each a fourth longer than the one before, and the
shortest that ends at the target counts. The constant rate is looked at after the same numbers of steps.

- constant: no schedule.
- lr_scheduler: its defaults (a warm-up of 5 %, a cosine). Nothing is tuned.
- one_cycle: `lr_scheduler: {kind: one_cycle}`, at the same rate.
- tuned OneCycleLR: torch's, in a plain loop, at the best of four peak rates, found with a seed that is not judged.

Figures are steps, so the machine's speed does not matter: --add goes on with what the result has. Ratios are per
seed, to the constant rate of that seed, with their t-interval.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, describe, write_result
from pictures import Batches, Pictures, accuracy, read_pictures
from scipy import stats
from torch import nn
from torch.nn.functional import cross_entropy

from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.training.loop import TrainingLoop

TARGET, BATCH, RATE, DECAY = 0.86, 128, 2e-3, 5e-2
SHORTEST, LONGER, LONGEST = 60, 1.25, 1000
PEAKS = (4e-3, 1e-2, 2e-2, 4e-2)
TUNED_WITH = 101
"""The seed that the peak rate is chosen with."""
GOAL = "at least 1.5 times fewer steps than a constant rate, untuned"
SCHEDULES = {
    "lr_scheduler": LrScheduler(),
    "one_cycle": LrScheduler(kind="one_cycle"),
}


def ladder() -> list[int]:
    """Numbers of steps that are tried."""
    count = math.floor(math.log(LONGEST / SHORTEST) / math.log(LONGER)) + 1
    return [round(SHORTEST * LONGER**place) for place in range(count)]


def adamw(parameters: Any, rate: float = RATE) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=DECAY, fused=True)


def net(pictures: Pictures, seed: int) -> nn.Module:
    return pictures.net(seed, stem_stride=2, widths=(16, 32, 64))


def constant(pictures: Pictures, seed: int) -> int | None:
    """Steps to the target at a constant rate, looked at after each number of the ladder."""
    found: list[int] = []
    loop = TrainingLoop(
        net(pictures, seed),
        Batches(pictures.train, BATCH, seed),
        cross_entropy,
        epochs=100,
        max_steps=LONGEST,
        optimizer=adamw,
        device="cpu",
        seed=seed,
    )

    def look(batch: Any) -> None:
        if loop.step + 1 in looks and reached(loop.model.eval(), pictures):
            found.append(loop.step + 1)
            loop.stop("the target is reached")
        loop.model.train()

    looks = set(ladder())
    loop.on("step_end", look)
    loop.fit()
    return found[0] if found else None


def scheduled(pictures: Pictures, seed: int, schedule: LrScheduler, steps: int) -> bool:
    """Whether a training of so many steps ends at the target."""
    loop = TrainingLoop(
        net(pictures, seed),
        Batches(pictures.train, BATCH, seed),
        cross_entropy,
        instructions=[schedule],
        epochs=100,
        max_steps=steps,
        optimizer=adamw,
        device="cpu",
        seed=seed,
    )
    return reached(loop.fit().eval(), pictures)


def one_cycle_by_hand(pictures: Pictures, seed: int, peak: float, steps: int) -> bool:
    """The same for a plain loop around torch's OneCycleLR."""
    model, batches = net(pictures, seed), Batches(pictures.train, BATCH, seed)
    torch.manual_seed(seed)
    optimizer = adamw(model.parameters(), peak)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=steps)
    model.train()
    done = 0
    while done < steps:
        for inputs, targets in batches.batches(done // len(batches)):
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            scheduler.step()
            done += 1
            if done == steps:
                break
    return reached(model.eval(), pictures)


def reached(model: nn.Module, pictures: Pictures) -> bool:
    return accuracy(model, pictures.test) >= TARGET


def shortest(ends_at_target: Callable[[int], bool]) -> int | None:
    """The first number of the ladder with which a training ends at the target."""
    return next((steps for steps in ladder() if ends_at_target(steps)), None)


def summary(seeds: dict[str, dict[str, int | None]]) -> dict[str, Any]:
    """Mean steps of each arm over the seeds that have it, and its ratio to the constant rate of the same seed."""
    result = {}
    for arm in dict.fromkeys(name for found in seeds.values() for name in found):
        steps = [found[arm] for found in seeds.values() if arm in found]
        if None in steps:
            result[arm] = {"seeds": len(steps), "missed": steps.count(None)}
            continue
        pairs = [(found["constant"], found[arm]) for found in seeds.values() if arm in found]
        ratios = [constant / own for constant, own in pairs if constant and own]
        result[arm] = {"seeds": len(steps), "steps": statistics.fmean(filter(None, steps))}
        if ratios:
            result[arm]["times_fewer"] = interval([math.log(one) for one in ratios])
    return result


def interval(logs: list[float]) -> dict[str, Any]:
    """The geometric mean of paired ratios, from their logarithms, with its 95 % t-interval."""
    middle = statistics.fmean(logs)
    if len(logs) < 2:
        return {"median": math.exp(middle)}
    half = stats.t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return {"median": math.exp(middle), "interval": [math.exp(middle - half), math.exp(middle + half)]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin nothing after so many")
    parser.add_argument("--add", action="store_true", help="go on with the result that there is")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    pictures, end = read_pictures(chosen.data, "fashion_mnist"), time.monotonic() + chosen.seconds
    path = RESULTS / "lr_schedules.json"
    result: dict[str, Any] = {
        "machine": describe(),
        "goal": GOAL,
        "target": TARGET,
        "arms": {},
        "tuning": {},
        "raw": {},
    }
    if chosen.add and path.exists():
        result |= json.loads(path.read_bytes())
    for done in work(pictures, chosen.seeds, result):
        print(done, flush=True)
        result["arms"] = summary(result["raw"])
        write_result("lr_schedules", result)
        if time.monotonic() > end:
            break
    for arm, one in result["arms"].items():
        print(f"{arm:<18}{one}")


def work(pictures: Pictures, seeds: int, result: dict[str, Any]) -> Iterator[str]:
    """Fill in what `result` lacks, and tell each figure as it comes."""
    tuning, raw = result["tuning"], result["raw"]
    for peak in PEAKS:
        if (name := f"{peak:g}") not in tuning:
            steps = shortest(partial(one_cycle_by_hand, pictures, TUNED_WITH, peak))
            tuning[name] = {"steps": LONGEST if steps is None else steps}
            yield f"OneCycleLR at a peak of {name}: {tuning[name]}"
    best = min(tuning, key=lambda name: tuning[name]["steps"])
    for seed in range(seeds):
        mine = raw.setdefault(str(seed), {})
        arms = {"constant": partial(constant, pictures, seed)}
        arms |= {
            name: partial(shortest, partial(scheduled, pictures, seed, schedule))
            for name, schedule in SCHEDULES.items()
        }
        arms["tuned OneCycleLR"] = partial(shortest, partial(one_cycle_by_hand, pictures, seed, float(best)))
        for name, arm in arms.items():
            if name not in mine:
                mine[name] = arm()
                yield f"seed {seed}, {name}: {mine[name]} steps"


if __name__ == "__main__":
    main()
