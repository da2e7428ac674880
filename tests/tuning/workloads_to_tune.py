"""Small workloads for searches: one that learns, and some with planted faults."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def two_clouds(rows: int = 300) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % 2
    points = torch.randn(rows, 4, generator=draw) + 1.2 * labels[:, None]
    return points.float(), labels


def with_loss(loss: Callable[[Any, Tensor], Tensor]) -> dict[str, Any]:
    return {"model": lambda: nn.Linear(4, 2), "data": two_clouds(), "loss": loss}


def clouds() -> dict[str, Any]:
    """Learns in a moment."""
    return with_loss(nn.functional.cross_entropy)


def slow_clouds() -> dict[str, Any]:
    """Takes a while, so that somebody can kill it."""

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        torch.randn(400, 400).matmul(torch.randn(400, 4000))
        return nn.functional.cross_entropy(outputs, targets)

    return with_loss(loss)


def fails_with_other_batches() -> dict[str, Any]:
    """Only batches of 32 work, as in the recipe."""

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(targets) > 32:
            raise RuntimeError("planted: too many rows at once")
        return nn.functional.cross_entropy(outputs, targets)

    return with_loss(loss)


def always_fails() -> dict[str, Any]:
    def loss(outputs: Any, targets: Tensor) -> Tensor:
        raise RuntimeError("planted: nothing works")

    return with_loss(loss)


def killed_once() -> dict[str, Any]:
    """The process is killed the first time that a training begins with other batches than the recipe's."""
    mark = Path(os.environ["KILLED_ONCE"])

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(targets) > 32 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.functional.cross_entropy(outputs, targets)

    return with_loss(loss)


def disk_full_with_other_batches() -> dict[str, Any]:
    def loss(outputs: Any, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(targets) > 32:
            raise OSError(28, "No space left on device")
        return nn.functional.cross_entropy(outputs, targets)

    return with_loss(loss)
