"""Chains that one kernel could do, by a trace or by the order of modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fulldeck.chains import fusible_chains


class Branching(nn.Module):
    """Cannot be traced: its path depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(inputs) if inputs.sum() > 0 else inputs


class Shared(nn.Module):
    """What is used twice cannot be fused into one user."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        middle = self.first(inputs)
        return torch.relu(middle) + middle


def test_products_take_what_follows_them() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2), nn.Softmax(1)
    )
    assert fusible_chains(model) == (("0", "1", "2"),)


def test_elementwise_chains_and_shared_values() -> None:
    assert fusible_chains(Shared()) == (("relu", "add"),)


def test_what_cannot_be_traced_is_read_in_the_order_of_its_modules() -> None:
    assert fusible_chains(Branching()) == (("body.0", "body.1"),)
