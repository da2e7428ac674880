"""Run by test_local_sgd.py: trainings whose processes step apart, and what a few lines of torch make of them."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fulldeck.instructions.training.distributed_data_parallel import DistributedDataParallel
from fulldeck.training.loop import TrainingLoop
from tests.distributed.two_ranks import PATIENCE, in_all, in_two

ROWS, BATCH, EPOCHS, EVERY = 48, 12, 2, 3
RATE, MOMENTUM = 0.1, 0.9


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    random = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, 5, generator=random)
    return list(zip(inputs.split(BATCH), inputs[:, :3].argmax(1).split(BATCH), strict=True))


def by_hand(workers: int) -> dict[str, Any]:
    """Local SGD of so many workers: each on its part of every batch, weights and momentum averaged."""
    models = [network() for _ in range(workers)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM) for model in models]

    def average() -> None:
        for some in zip(*(model.parameters() for model in models), strict=True):
            moments = [one.state[p]["momentum_buffer"] for one, p in zip(optimizers, some, strict=True)]
            for group in (some, moments):
                mean = torch.stack([one.detach() for one in group]).mean(0)
                for one in group:
                    one.data.copy_(mean)

    step = 0
    for _ in range(EPOCHS):
        for inputs, targets in batches():
            if step and step % EVERY == 0:
                average()
            for model, optimizer, x, y in zip(
                models, optimizers, inputs.chunk(workers), targets.chunk(workers), strict=True
            ):
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()
            step += 1
        average()  # before the evaluation
    return weights(models[0])


def weights(model: nn.Module) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}


def training(place: Path, *, kept: Path | None = None, **settings: Any) -> TrainingLoop:
    loop = TrainingLoop(
        network(),
        batches(),
        cross_entropy,
        epochs=EPOCHS,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM),
        validation=batches(),
        device="cpu",
        checkpoints=kept,
        checkpoint_every=2,
    )
    spread = DistributedDataParallel(
        init_method=f"file://{place.absolute()}/rendezvous",
        timeout_seconds=PATIENCE,
        average_every=EVERY,
        **settings,
    )
    loop.attach(spread, spread.card.name)
    return loop


def two_processes(rank: int, folder: Path) -> dict[str, Any]:
    loop = training(folder)
    found = {"weights": weights(loop.fit()), "history": loop.history, "notes": loop.notes}
    found["reported"] = loop.reported
    for name in ("whole", "broken"):
        (folder / name).mkdir(exist_ok=True)
    found["whole"] = weights(training(folder, kept=folder / "whole").fit())
    broken = training(folder, kept=folder / "broken")
    broken.on("step_end", lambda batch: 1 / 0 if broken.step == 5 else None)
    with suppress(ZeroDivisionError):
        broken.fit()
    found["resumed"] = weights(training(folder, kept=folder / "broken").fit(resume=True))
    return found


def two_machines(rank: int, folder: Path) -> dict[str, Any]:
    os.environ.update(LOCAL_RANK=str(rank % 2), LOCAL_WORLD_SIZE="2")
    return weights(training(folder, apart="machine").fit())


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    found = {
        "by_hand": by_hand(2),
        "processes": in_two(lambda rank: two_processes(rank, folder / "two"), folder / "two"),
        "machines": in_all(lambda rank: two_machines(rank, folder / "four"), folder / "four", 4),
    }
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
