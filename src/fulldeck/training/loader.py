"""Batches in an order that is a function of seed and epoch alone, so that resuming needs no replay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fulldeck.data import Examples
from fulldeck.encoders import Encoder
from fulldeck.training.batch import Tensors
from fulldeck.training.random_state import random_state, restore_random_state


class Sampler(Protocol):
    """Which examples an epoch shows, in which order. Replace `BatchLoader.sampler` to change it."""

    def indices(self, epoch: int) -> npt.NDArray[np.int64]: ...


class Loader(Protocol):
    """What the training loop reads: batches of (inputs, targets), from any place in an epoch."""

    def __len__(self) -> int: ...

    def batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Tensors, Tensor]]: ...


class ShuffledSampler:
    """Every example once an epoch, in an order drawn from (seed, epoch)."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed

    def indices(self, epoch: int) -> npt.NDArray[np.int64]:
        """A permutation of 0..size-1."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.size)


class SequentialSampler:
    """Every example once, in the order in which they are stored."""

    def __init__(self, size: int) -> None:
        self.size = size

    def indices(self, epoch: int) -> npt.NDArray[np.int64]:
        """0..size-1."""
        return np.arange(self.size)


class BatchLoader:
    """Batches of `examples`, encoded as tensors; the last one may be smaller."""

    def __init__(
        self, examples: Examples, encoder: Encoder, batch_size: int, sampler: Sampler | None = None
    ) -> None:
        self.examples = examples
        self.encoder = encoder
        self.batch_size = batch_size
        self.sampler: Sampler = sampler or SequentialSampler(len(examples))
        self._encoded = None if encoder.lazy else encoder.encode(examples.inputs)
        self._targets = torch.from_numpy(np.ascontiguousarray(examples.targets))

    def __len__(self) -> int:
        return -(-len(self.sampler.indices(0)) // self.batch_size)

    def batches(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[Tensors, Tensor]]:
        """The batches of `epoch`, without the first `skip`."""
        for chosen in self.rows(epoch, skip):
            yield self.inputs(chosen), self.targets(chosen)

    def rows(self, epoch: int = 0, skip: int = 0) -> Iterator[npt.NDArray[np.int64]]:
        """Which examples each of these batches has."""
        indices = self.sampler.indices(epoch)
        for start in range(skip * self.batch_size, len(indices), self.batch_size):
            yield indices[start : start + self.batch_size]

    def targets(self, chosen: npt.NDArray[np.int64]) -> Tensor:
        """Those of the examples `chosen`."""
        return self._targets[torch.from_numpy(chosen)]

    def inputs(self, chosen: npt.NDArray[np.int64]) -> Tensors:
        """The examples `chosen`, encoded."""
        if self._encoded is None:
            encoded = self.encoder.encode(self.examples.take(chosen).inputs)
        else:
            encoded = {name: array[chosen] for name, array in self._encoded.items()}
        return as_tensors(encoded)


class IterableLoader:
    """A user's own iterable of (inputs, targets), such as a `torch.utils.data.DataLoader`.

    Its shuffling draws from the global random state, so the state at the epoch's start is kept: resuming
    in the middle of an epoch sets it back and reads past the batches that were done.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self.iterable = iterable
        self.epoch_start: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.iterable)  # type: ignore[arg-type]

    def batches(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[Tensors, Tensor]]:
        """The batches of one pass, without the first `skip`."""
        if skip and self.epoch_start is not None:
            here = random_state()
            restore_random_state(self.epoch_start)
            iterator = iter(self.iterable)
            for _ in range(skip):
                next(iterator)
            restore_random_state(here)
        else:
            self.epoch_start = random_state()
            iterator = iter(self.iterable)
        yield from iterator

    def state_dict(self) -> dict[str, Any]:
        """The random state at the start of the running epoch."""
        return {"epoch_start": self.epoch_start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.epoch_start = state["epoch_start"]


def as_loader(loader: Loader | Iterable[Any]) -> Loader:
    """`loader` itself if the loop can read it, else wrapped in an IterableLoader."""
    return cast(Loader, loader) if hasattr(loader, "batches") else IterableLoader(loader)


def as_tensors(encoded: Mapping[str, npt.NDArray[Any]]) -> Tensors:
    """One input as a tensor, several as a dict of tensors."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in encoded.items()}
    return next(iter(tensors.values())) if len(tensors) == 1 else tensors
