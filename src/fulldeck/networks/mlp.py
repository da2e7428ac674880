"""A multi-layer perceptron for encoded tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    """N x `inputs` values to N x `outputs` logits, or values for regression.

    The table's encoder has standardised the inputs. For regression, `target_mean` and `target_std` bring
    the outputs into the unit of the target inside the model, so that they travel with every export.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        widths: Sequence[int] = (256, 128),
        dropout: float = 0.1,
        target_mean: float = 0.0,
        target_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {
            "inputs": inputs,
            "outputs": outputs,
            "widths": list(widths),
            "dropout": dropout,
            "target_mean": target_mean,
            "target_std": target_std,
        }
        self.register_buffer("target_mean", torch.tensor(target_mean, dtype=torch.float32))
        self.register_buffer("target_std", torch.tensor(target_std, dtype=torch.float32))
        self.in_target_units = (target_mean, target_std) != (0.0, 1.0)
        layers: list[nn.Module] = []
        before = inputs
        for width in widths:
            layers += [nn.Linear(before, width), nn.ReLU(), nn.Dropout(dropout)]
            before = width
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(before, outputs)

    def forward(self, input: Tensor) -> Tensor:
        """N x `outputs`."""
        values: Tensor = self.head(self.hidden(input))
        return values * self.target_std + self.target_mean if self.in_target_units else values
