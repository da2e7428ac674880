"""Batches by Poisson sampling: each sample is in each batch with the same probability, independently of all others.

That is what the accountant counts on; a shuffled pass over the data is not the same. The draw is a function of a secret
and the step alone, so a training that is resumed draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fulldeck.training.batch import Tensors
from fulldeck.training.loader import BatchLoader

SAMPLING, NOISE = 0, 1


class Secret:
    """What the randomness of a private training comes from. Whoever knows it can take the noise away."""

    def __init__(self, value: int) -> None:
        self.value = value

    def draws(self, purpose: int, step: int) -> np.random.Generator:
        """A generator of its own for each purpose and step."""
        return np.random.default_rng([self.value, purpose, step])

    def generator(self, device: torch.device, step: int) -> torch.Generator:
        """Of the noise of a step."""
        seed = int(self.draws(NOISE, step).integers(2**63))
        return torch.Generator(device=device).manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        return {"secret": str(self.value)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = int(state["secret"])


class PoissonLoader:
    """In the place of `inner`: as many batches, of random size, as large as its own on average."""

    def __init__(self, inner: BatchLoader, secret: Secret) -> None:
        self.inner = inner
        self.secret = secret
        self.rows = len(inner.examples)
        self.expected = min(inner.batch_size, self.rows)
        self.rate = self.expected / self.rows
        self.steps = -(-self.rows // self.expected)

    def __len__(self) -> int:
        return self.steps

    def indices(self, step: int) -> npt.NDArray[np.int64]:
        """The samples of a step, counted from the beginning of the training."""
        return np.flatnonzero(self.secret.draws(SAMPLING, step).random(self.rows) < self.rate)

    def batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Tensors, Tensor]]:
        """The batches of `epoch`, without the first `skip`."""
        for step in range(epoch * self.steps + skip, (epoch + 1) * self.steps):
            chosen = self.indices(step)
            yield self.inner.inputs(chosen), self.inner.targets(chosen)
