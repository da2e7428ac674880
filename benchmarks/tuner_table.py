"""A table of 162 configurations x 27 epochs, measured once, for `tuners.py` to replay searches on.

    python benchmarks/tuner_table.py --data DIR [--seconds S]

DIR holds `fashion_mnist.npz`. A perceptron (784-128-10) learns 4,000 images of Fashion-MNIST for 27 epochs with each
combination of learning rate (9), batch size (3), lr_scheduler (without, cosine, one_cycle) and optimizer (2). The table
has the accuracy on 5,000 other training images after every epoch, and after the last one also that of the model with
its weights rounded to 8, 4 and 2 bits (torchao). Rows that are there are kept, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, describe, write_result
from pictures import Batches, accuracy, read_pictures
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchao.quantization import IntxWeightOnlyConfig, PerAxis, quantize_

from fulldeck.instructions.training.lr_scheduler import LrScheduler
from fulldeck.instructions.training.optimizer_selection import OptimizerSelection
from fulldeck.training.loop import TrainingLoop

NAME = "tuner_table"
EPOCHS = 27
TRAIN, VALIDATION = 4_000, 5_000
RATES = tuple(round(1e-4 * 10 ** (3 * place / 8), 6) for place in range(9))
BATCHES = (64, 128, 256)
SCHEDULES = ("none", "cosine", "one_cycle")
OPTIMIZERS = ("adamw", "lion")
BITS = (8, 4, 2)
Images = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Configuration:
    """One row of the table."""

    learning_rate: float
    batch_size: int
    schedule: str
    optimizer: str

    @property
    def key(self) -> str:
        return " ".join(map(str, astuple(self)))


def configurations() -> Iterator[Configuration]:
    """All of them."""
    for values in itertools.product(RATES, BATCHES, SCHEDULES, OPTIMIZERS):
        yield Configuration(*values)


def measured(one: Configuration, train: Images, validation: Images) -> dict[str, Any]:
    """Train one configuration: its accuracies, and what an epoch took."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    curve: list[float] = []
    instructions: list[Any] = [OptimizerSelection(kind=one.optimizer)]
    if one.schedule != "none":
        instructions.append(LrScheduler(kind=one.schedule))
    loop = TrainingLoop(
        model,
        Batches(train, one.batch_size, 0),
        cross_entropy,
        instructions=instructions,
        epochs=EPOCHS,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=one.learning_rate),
        device="cpu",
        seed=0,
    )

    def look() -> None:
        loop.model.eval()
        curve.append(round(accuracy(loop.model, validation), 4))
        loop.model.train()

    loop.on("epoch_end", look)
    start = time.perf_counter()
    trained = loop.fit().eval()
    middle = time.perf_counter()
    forms = [round(accuracy(rounded(trained, bits), validation), 4) for bits in BITS]
    end = time.perf_counter()
    return {
        **asdict(one),
        "accuracy": curve,
        "rounded": forms,
        "epoch_seconds": round((middle - start) / EPOCHS, 4),
        "form_seconds": round((end - middle) / len(BITS), 4),
    }


def rounded(model: nn.Module, bits: int) -> nn.Module:
    """A copy of `model` with weights of so many bits, one scale a row."""
    small = copy.deepcopy(model)
    quantize_(small, IntxWeightOnlyConfig(getattr(torch, f"int{bits}"), granularity=PerAxis(0)))
    return small


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no row after so many")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    images, labels = read_pictures(chosen.data, "fashion_mnist").train
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, validation = (
        (images[rows], labels[rows]) for rows in (order[:TRAIN], order[TRAIN : TRAIN + VALIDATION])
    )
    path, end = RESULTS / f"{NAME}.json", time.monotonic() + chosen.seconds
    rows: dict[str, Any] = json.loads(path.read_bytes())["raw"] if path.exists() else {}
    waiting = [one for one in configurations() if one.key not in rows]
    for one in waiting:
        if time.monotonic() > end:
            break
        rows[one.key] = measured(one, train, validation)
        write_result(NAME, {"machine": describe(), "epochs": EPOCHS, "bits": BITS, "raw": rows})
        print(
            f"{len(rows)} of {len(list(configurations()))}: {one.key}: {rows[one.key]['accuracy'][-1]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
