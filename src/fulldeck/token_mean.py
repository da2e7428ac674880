"""Means over tokens: losses and metrics that add up batch by batch, exactly, whatever the batches hold.

The outputs of a language model (rows x tokens x vocabulary) are far too large to keep for a whole split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100
"""The target of a token that is not to be predicted, as in `torch.nn.functional.cross_entropy`."""


@dataclass(frozen=True)
class TokenMean:
    """The mean of `per_token` over all tokens that count, then put through `finish`.

    Outputs are N x T x V logits, targets N x T ids, IGNORED where a token does not count; `per_token`
    gets them as M x V and M, and gives M values, 0 where the target is IGNORED. As a loss it is
    differentiable.
    """

    per_token: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[Tensor], Tensor] = torch.clone

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The figure, as a scalar; of no tokens it is that of a sum of zero."""
        total, count = self.total(outputs, targets)
        return self.finish(total / max(count, 1))

    def total(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        """The sum over the tokens that count, and how many they are."""
        values = self.per_token(outputs.flatten(0, -2), targets.flatten())
        return values.sum(), int((targets != IGNORED).sum())

    def weigh(self, targets: Tensor) -> float:
        """Tokens that count: what a part of a batch weighs in the mean over the batch."""
        return float((targets != IGNORED).sum())


def score(
    batches: Iterable[tuple[Tensor, Tensor]],
    figures: Mapping[str, Callable[[Tensor, Tensor], Tensor | float]],
) -> dict[str, float]:
    """Every figure of the outputs and targets of all batches together.

    A TokenMean is added up (in double precision); outputs are kept only if there is any other.
    """
    means = {name: figure for name, figure in figures.items() if isinstance(figure, TokenMean)}
    others = {name: figure for name, figure in figures.items() if name not in means}
    totals, counts = dict.fromkeys(means, 0.0), dict.fromkeys(means, 0)
    kept: list[tuple[Tensor, Tensor]] = []
    for outputs, targets in batches:
        for name, mean in means.items():
            total, count = mean.total(outputs, targets)
            totals[name] += float(total)
            counts[name] += count
        if others:
            kept.append((outputs, targets))
    whole = (torch.cat([o for o, _ in kept]), torch.cat([t for _, t in kept])) if kept else None
    found = {}
    for name, figure in figures.items():
        if isinstance(figure, TokenMean):
            value = torch.tensor(totals[name] / max(counts[name], 1), dtype=torch.float64)
            found[name] = float(figure.finish(value))
        elif whole is not None:
            found[name] = float(figure(*whole))
    return found
