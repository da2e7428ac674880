"""Random numbers for rows of a batch: what one process would draw for them, also where others have the other rows."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor


class Draws:
    """Draws for rows of a batch of `total`, from torch's global generators; `mine` are the places of the own ones.

    What is drawn is drawn for all rows, so several processes go on alike, and each row gets what it would get if one
    process had them all. Left out, `mine` are all.
    """

    def __init__(self, total: int, mine: Tensor | None = None) -> None:
        self.total = total
        self.mine = mine

    def uniform(
        self, *leading: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """*leading x own rows, between 0 and 1."""
        return self._own(torch.rand((*leading, self.total), device=device, dtype=dtype))

    def integers(self, low: int, high: int, *leading: int) -> Tensor:
        """*leading x own rows, from `low` up to `high` - 1; on the CPU."""
        return self._own(torch.randint(low, high, (*leading, self.total)))

    def shares(self, parts: int) -> Tensor:
        """`parts` x own rows: positive numbers that sum to 1 over the parts, evenly distributed."""
        return self._own(torch.distributions.Dirichlet(torch.ones(parts)).sample((self.total,)).T)

    def some(self, share: float) -> tuple[Tensor, Self]:
        """Which of the own rows are among those that this share of all is, and the draws for these."""
        everyone = torch.rand(self.total) < share
        chosen = self._own(everyone)
        if self.mine is None:
            return chosen, type(self)(int(everyone.sum()))
        place = everyone.cumsum(0) - 1
        return chosen, type(self)(int(everyone.sum()), place[self.mine][chosen])

    def _own(self, drawn: Tensor) -> Tensor:
        return drawn if self.mine is None else drawn[..., self.mine.to(drawn.device)]
