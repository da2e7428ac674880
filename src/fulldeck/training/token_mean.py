"""Means over tokens: losses and metrics that add up batch by batch, exactly, whatever the batches hold.

The outputs of a language model (rows x tokens x vocabulary) are far too large to keep for a whole split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fulldeck.distributed.ranks import Ranks

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
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """Every figure of the outputs and targets of all batches together, those of all `ranks`.

    A TokenMean is added up (in double precision); outputs are kept only if there is any other. Of each batch
    a rank gives its rows; the figures are computed on the first one, so that all decide by the same numbers.
    """
    means = {name: figure for name, figure in figures.items() if isinstance(figure, TokenMean)}
    keep = len(means) < len(figures)
    totals, kept = dict.fromkeys(means, (0.0, 0)), []
    for outputs, targets in batches:
        for name, mean in means.items():
            total, count = mean.total(outputs, targets)
            before = totals[name]
            totals[name] = before[0] + float(total), before[1] + count
        if keep:
            kept.append((outputs, targets))
    if ranks is None or ranks.world_size == 1:
        return _figures(figures, [(totals, kept)])
    every = ranks.gather_first((totals, kept))
    return ranks.first(lambda: _figures(figures, every))


def _figures(
    figures: Mapping[str, Callable[[Tensor, Tensor], Tensor | float]],
    every: list[tuple[dict[str, tuple[float, int]], list[tuple[Tensor, Tensor]]]],
) -> dict[str, float]:
    """The figures of what each rank gives: totals and counts, and the rows of each batch that it has."""
    rows = [pair for batch in zip(*(kept for _, kept in every), strict=True) for pair in batch]
    whole = (torch.cat([o for o, _ in rows]), torch.cat([t for _, t in rows])) if rows else None
    found = {}
    for name, figure in figures.items():
        if isinstance(figure, TokenMean):
            total, count = (
                sum(values) for values in zip(*(totals[name] for totals, _ in every), strict=True)
            )
            found[name] = float(figure.finish(torch.tensor(total / max(count, 1), dtype=torch.float64)))
        elif whole is not None:
            found[name] = float(figure(*whole))
    return found
