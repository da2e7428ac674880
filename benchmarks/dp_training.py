"""Private training beside opacus at the same epsilon: time of a step, peak memory, accuracy.

    python benchmarks/dp_training.py --data DIR [--rounds 5] [--seconds S] [--add]

DIR holds `fashion_mnist.npz`. The net of opacus' own MNIST example learns 12,000 images for three epochs (batch 256,
drawn by Poisson sampling, SGD at 0.5 with momentum 0, norms clipped to 1) at epsilon 3, delta 1e-5, RDP accountant:

- plain: not private, in fulldeck's loop. fulldeck: the same loop with dp_training as it is (it chooses how to clip).
- opacus hooks, opacus ghost: `make_private_with_epsilon` with its default mode, and with the one that saves memory.

Each arm of each round is a fresh process, in random order, with MALLOC_MMAP_THRESHOLD_=65536; a round has a seed. Step
times are medians of a process without its first ten; memory is the peak above the level after imports and data. What is
set up before the first step (the noise for epsilon, the choice of a way to clip) is apart. Ratios are per round.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import RESULTS, describe, write_result
from pictures import accuracy, read_pictures
from rounds import difference, median, ratio
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fulldeck.data import Examples
from fulldeck.encoders.image import ImageEncoder
from fulldeck.instructions.extensions.dp_training import DpTraining, private_epsilon
from fulldeck.machine import recent_peak, reset_peak
from fulldeck.memory import memory_in_use
from fulldeck.training.loader import BatchLoader, ShuffledSampler
from fulldeck.training.loop import TrainingLoop

NAME = "dp_training"
TRAIN, BATCH, EPOCHS, RATE, NORM = 12_000, 256, 3, 0.5, 1.0
EPSILON, DELTA = 3.0, 1e-5
WARM_UP = 10
ARMS = ("plain", "fulldeck", "opacus hooks", "opacus ghost")
GOAL = "at most 1.5 times the time and 1.1 times the memory of the step that is not private"
CPU = torch.device("cpu")


def net(seed: int) -> nn.Module:
    """N x 1 x 28 x 28 images in 0..1 to 10 logits."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=3),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 32),
        nn.Tanh(),
        nn.Linear(32, 10),
    )


def in_loop(images: Tensor, labels: Tensor, seed: int, private: bool) -> dict[str, Any]:
    """fulldeck's loop."""
    loader = BatchLoader(
        Examples(images.numpy(), labels.numpy()), ImageEncoder(1, 28, 28), BATCH, ShuffledSampler(TRAIN, seed)
    )
    chosen = DpTraining(epsilon=EPSILON, delta=DELTA, max_grad_norm=NORM, noise_seed=seed)
    times: list[float] = []
    loop = TrainingLoop(
        net(seed),
        loader,
        cross_entropy,
        instructions=[chosen] if private else [],
        epochs=EPOCHS,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE),
        device="cpu",
        seed=seed,
    )
    loop.keep_memory = False
    loop.on("step_end", lambda batch: times.append(time.perf_counter()))
    model = loop.fit().eval()
    spent = loop.reported["dp_training"]["epsilon"]["after"] if private else None
    mode = next(
        (
            note.rpartition("clipping by ")[2].partition(";")[0]
            for note in loop.notes
            if "clipping by" in note
        ),
        "",
    )
    return {"model": model, "times": times, "epsilon": spent, "mode": mode}


def in_opacus(images: Tensor, labels: Tensor, seed: int, mode: str) -> dict[str, Any]:
    """A plain loop around opacus."""
    from opacus import PrivacyEngine

    model = net(seed)
    data = torch.utils.data.TensorDataset(images, labels)
    engine = PrivacyEngine(accountant="rdp")
    made = engine.make_private_with_epsilon(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=RATE),
        data_loader=torch.utils.data.DataLoader(data, batch_size=BATCH),
        criterion=nn.CrossEntropyLoss(),
        target_epsilon=EPSILON,
        target_delta=DELTA,
        epochs=EPOCHS,
        max_grad_norm=NORM,
        grad_sample_mode=mode,
    )
    private, optimizer, *criterion, loader = made
    loss = criterion[0] if criterion else cross_entropy
    times: list[float] = []
    private.train()
    for _ in range(EPOCHS):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss(private(inputs.float() / 255), targets).backward()
            optimizer.step()
            times.append(time.perf_counter())
    return {"model": model.eval(), "times": times, "epsilon": engine.get_epsilon(DELTA), "mode": mode}


def measured(arm: str, folder: Path, seed: int) -> dict[str, Any]:
    """One arm in this process."""
    warnings.simplefilter("ignore")
    pictures = read_pictures(folder, "fashion_mnist")
    images, labels = pictures.train[0][:TRAIN].clone(), pictures.train[1][:TRAIN].clone()
    import opacus  # noqa: F401  (its import is nobody's memory)

    level = memory_in_use(CPU)
    reset_peak(CPU)
    start = time.perf_counter()
    if arm.startswith("opacus"):
        found = in_opacus(images, labels, seed, arm.removeprefix("opacus "))
    else:
        found = in_loop(images, labels, seed, arm == "fulldeck")
    peak = recent_peak(CPU) - level
    times = np.array(found["times"])
    return {
        "step_ms": 1000 * float(np.median(np.diff(times)[WARM_UP:])),
        "set_up_s": times[0] - start,
        "peak_mib": peak / 2**20,
        "accuracy": accuracy(found["model"], pictures.test),
        "epsilon": found["epsilon"],
        "mode": found["mode"],
    }


def fresh(arm: str, folder: Path, seed: int, threads: int) -> dict[str, Any]:
    """One arm in a process of its own."""
    command = [sys.executable, __file__, "--data", str(folder), "--arm", arm, "--seed", str(seed)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def summary(raw: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Each arm's medians, and its ratios to plain of the same round."""
    result: dict[str, Any] = {}
    whole = [found for found in raw.values() if set(found) == set(ARMS)]
    for arm in ARMS:
        own, plain = [one[arm] for one in whole], [one["plain"] for one in whole]
        result[arm] = {
            name: median([one[name] for one in own]) for name in ("step_ms", "set_up_s", "peak_mib")
        }
        result[arm] |= {
            f"{name}_to_plain": ratio([one[name] for one in own], [one[name] for one in plain])
            for name in ("step_ms", "peak_mib")
        }
        result[arm]["accuracy"] = median([one["accuracy"] for one in own])
        if arm != "plain":
            result[arm]["epsilon"] = max(one["epsilon"] for one in own)
    accuracies = {arm: [one[arm]["accuracy"] for one in whole] for arm in ARMS}
    result["fulldeck"]["accuracy_over_opacus"] = difference(
        accuracies["fulldeck"], accuracies["opacus hooks"]
    )
    result["fulldeck"]["step_to_opacus_hooks"] = ratio(
        [one["fulldeck"]["step_ms"] for one in whole], [one["opacus hooks"]["step_ms"] for one in whole]
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no round after so many")
    parser.add_argument("--add", action="store_true", help="go on with the result that there is")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.arm is not None:
        torch.set_num_threads(chosen.threads)
        print(json.dumps(measured(chosen.arm, chosen.data, chosen.seed)))
        return
    path, end = RESULTS / f"{NAME}.json", time.monotonic() + chosen.seconds
    raw: dict[str, dict[str, Any]] = {}
    if chosen.add and path.exists():
        raw = json.loads(path.read_bytes())["raw"]
    for seed in range(chosen.rounds):
        if str(seed) in raw or time.monotonic() > end:
            continue
        order = list(ARMS)
        np.random.default_rng(seed).shuffle(order)
        raw[str(seed)] = {arm: fresh(arm, chosen.data, seed, chosen.threads) for arm in order}
        steps = math.ceil(TRAIN / BATCH) * EPOCHS
        result = {
            "machine": describe() | {"threads": chosen.threads},
            "goal": GOAL,
            "steps": steps,
            "epsilon_at_noise_1": private_epsilon(noise=1.0, rate=BATCH / TRAIN, steps=steps, delta=DELTA),
            "arms": summary(raw),
            "raw": raw,
        }
        write_result(NAME, result)
        print(
            f"round {seed}: " + ", ".join(f"{arm} {raw[str(seed)][arm]['step_ms']:.1f} ms" for arm in ARMS),
            flush=True,
        )
    if raw:
        for arm, one in summary(raw).items():
            print(f"{arm:<14}{one}")


if __name__ == "__main__":
    main()
