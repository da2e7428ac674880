"""The losses of an epoch's steps, read from an accelerator only now and then."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

FINITE_EVERY = 50
"""On an accelerator the loss is read once in this many steps: each reading waits for the device."""
POINTS = 100
"""Of an epoch's loss curve."""


class LossLog:
    """The loss of each step since `clear`; on the CPU, where reading is free, it is read at once."""

    def __init__(self, device: torch.device) -> None:
        self.values: list[float] = []
        self._every = 1 if device.type == "cpu" else FINITE_EVERY
        self._unread: list[Tensor] = []

    def add(self, loss: Tensor) -> bool:
        """Take the loss of one more step; return whether all that has been read is finite."""
        if self._every == 1:
            value = loss.item()
            self.values.append(value)
            return math.isfinite(value)
        self._unread.append(loss.detach())
        return len(self._unread) < self._every or self.read()

    def read(self) -> bool:
        """Read what is left; return whether it is finite."""
        if not self._unread:
            return True
        losses = torch.stack(self._unread).float().tolist()
        self._unread.clear()
        self.values += losses
        return all(map(math.isfinite, losses))

    def mean(self) -> float:
        """Over the steps that have been read."""
        return sum(self.values) / max(len(self.values), 1)

    def curve(self) -> dict[str, Any]:
        """At most POINTS `losses`: the means over `losses_every` steps after one another."""
        every = math.ceil(len(self.values) / POINTS) or 1
        parts = [self.values[start : start + every] for start in range(0, len(self.values), every)]
        return {"losses": [sum(part) / len(part) for part in parts], "losses_every": every}

    def clear(self) -> None:
        """Begin an epoch."""
        self.values = []
