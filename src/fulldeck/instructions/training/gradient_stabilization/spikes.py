"""A running quantile of gradient norms, kept where the gradients are: asking it does not wait for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LEAST = 20
"""Norms from which on a quantile says something."""


class RunningQuantile:
    """The `quantile` (0 to 1) of the last `window` finite values."""

    def __init__(self, quantile: float, window: int, device: torch.device | str = "cpu") -> None:
        self.quantile = quantile
        self.seen = 0
        # Infinity stands for "no value": it is sorted to the end.
        self._values = torch.full((window,), torch.inf, device=device)

    def add(self, value: Tensor) -> None:
        """Take in a scalar; what is not finite only pushes out the oldest."""
        self._values[self.seen % len(self._values)] = torch.where(value.isfinite(), value, torch.inf)
        self.seen += 1

    def value(self) -> Tensor | None:
        """The quantile as a scalar tensor (infinite if all values were); None before LEAST of them."""
        if self.seen < LEAST:
            return None
        ordered = self._values.sort().values
        last = self._values.isfinite().sum() - 1
        # A product in float32 can fall short of the whole number that it stands for.
        # Not indexed by it: that would read the index from the device.
        return ordered.take((self.quantile * last + 1e-3).long().clamp_(min=0))

    def state_dict(self) -> dict[str, Any]:
        """The values and how many there were."""
        return {"values": self._values, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._values.copy_(state["values"])
        self.seen = state["seen"]
