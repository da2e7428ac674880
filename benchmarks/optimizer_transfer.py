"""Optimizers at the rate that optimizer_selection transfers from AdamW's: the loss after equal steps.

    python benchmarks/optimizer_transfer.py [--steps 250] [--seeds 2] [--threads 1]

A GPT of two layers (64 wide, length 64) learns the bytes of Python's own standard library at a constant rate,
three times apart, of which the middle one suits AdamW. Each optimizer takes the rate that is transferred to it,
and half and twice that. Figures are the validation loss in nats a byte, the mean over seeds, and its ratio to
AdamW's at the same rate. 8-bit states are AdamW's but for rounding, and slow on a CPU; they are left out.
"""

from __future__ import annotations

import argparse
import statistics
import sysconfig
from pathlib import Path
from typing import Any

import torch
from machine import describe, write_result
from torch import Tensor, nn

from fulldeck.instructions.training.optimizer_selection import make_optimizers, transferred
from fulldeck.networks.gpt import Gpt

RATES = (1e-3, 3e-3, 1e-2)
KINDS = ("muon", "schedule_free", "lion")
FACTORS = (0.5, 1.0, 2.0)
BATCH, LENGTH, WARMUP, DECAY = 16, 64, 12, 0.1


def text() -> Tensor:
    """The first 60 modules of the standard library, as bytes."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:60]
    return torch.frombuffer(
        bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8
    ).long()


def rows(ids: Tensor, count: int, seed: int) -> Tensor:
    starts = torch.randint(
        len(ids) - LENGTH - 1, (count,), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    return torch.stack([ids[start : start + LENGTH + 1] for start in starts])


def loss_after(kind: Any, rate: float, factor: float, steps: int, seed: int, ids: Tensor) -> float:
    """Validation loss after `steps`, at `factor` times the rate that AdamW's `rate` is transferred to."""
    torch.manual_seed(seed)
    model = Gpt(256, LENGTH, width=64, layers=2, tied=False)
    optimizers = make_optimizers(
        model, kind, learning_rate=rate * factor, weight_decay=DECAY / factor, warmup_steps=WARMUP
    )
    train, validation = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]

    def loss(batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    if kind == "schedule_free":
        optimizers[0].train()
    for step in range(steps):
        batch = rows(train, BATCH, seed * steps + step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss(batch).backward()
        for optimizer in optimizers:
            optimizer.step()
    if kind == "schedule_free":
        optimizers[0].eval()
    model.eval()
    with torch.no_grad():
        return float(loss(rows(validation, 200, 10**6)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {"machine": describe(), "steps": arguments.steps, "seeds": arguments.seeds}
    ids = text()
    for rate in RATES:
        found = result[f"adamw_rate_{rate:g}"] = {}

        def mean(kind: str, factor: float, rate: float = rate) -> float:
            return statistics.fmean(
                loss_after(kind, rate, factor, arguments.steps, seed, ids) for seed in range(arguments.seeds)
            )

        adamw = mean("adamw", 1.0)
        found["adamw"] = {"rate": rate, "loss": adamw, "ratio": 1.0}
        print(f"AdamW at {rate:g}: {adamw:.3f}", flush=True)
        for kind in KINDS:
            for factor in FACTORS:
                own = transferred(kind, rate, DECAY)[0] * factor
                loss = mean(kind, factor)
                name = kind if factor == 1 else f"{kind}, {factor:g} times"
                found[name] = {"rate": own, "loss": loss, "ratio": loss / adamw}
                print(f"  {name} ({own:.2g}): {loss:.3f}, {loss / adamw:.3f}x", flush=True)
    print(write_result("optimizer_transfer", result))


if __name__ == "__main__":
    main()
