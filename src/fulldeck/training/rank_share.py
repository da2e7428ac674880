"""The share that each of several processes has of every batch: its rows, in parts, and what a model answers to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from fulldeck.errors import BadInput
from fulldeck.training.batch import Batch, Part, call, rows_of, split_batch, split_evenly, to_device
from fulldeck.training.loader import BatchLoader, Loader

if TYPE_CHECKING:
    from fulldeck.distributed.ranks import Ranks
    from fulldeck.training.loop import TrainingLoop


def own_rows(count: int, rank: int, world_size: int) -> slice:
    """Which of `count` rows are `rank`'s. Together they are all rows, each one once."""
    return slice(count * rank // world_size, count * (rank + 1) // world_size)


def most_rows(count: int, world_size: int) -> int:
    """The rows of whoever has most of them."""
    return -(-count // world_size)


def shares(
    loader: Loader, epoch: int = 0, skip: int = 0, *, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """The batches of `epoch` without the first `skip`, of each the rows that are `rank`'s.

    A BatchLoader reads and encodes no others; any other loader is read whole by every process, and has to give
    the same batches to all. A rank that no row is left for has one that counts nothing. Raises BadInput for a
    loader that shares its samples out by itself.
    """
    if world_size == 1:
        for inputs, targets in loader.batches(epoch, skip):
            yield Batch(inputs, targets)
        return
    _check(loader)
    if isinstance(loader, BatchLoader):
        for chosen in loader.rows(epoch, skip):
            mine, idle = _mine(len(chosen), rank, world_size)
            inputs, targets = loader.inputs(chosen[mine]), loader.targets(chosen[mine])
            yield Batch(inputs, targets, whole=loader.targets(chosen), first=mine.start, idle=idle)
        return
    for inputs, targets in loader.batches(epoch, skip):
        mine, idle = _mine(len(targets), rank, world_size)
        yield Batch(rows_of(inputs, mine), targets[mine], whole=targets, first=mine.start, idle=idle)


def parts_of(loop: TrainingLoop, batch: Batch) -> list[Part]:
    """The batch in parts of at most `loop.micro_batch` samples; all ranks have as many as whoever has most rows."""
    size = loop.micro_batch
    if batch.whole is not None:
        most = most_rows(len(batch.whole), loop.ranks.world_size)
        return split_evenly(batch, -(-most // (size or most)), loop.weigh)
    if size is None or size >= len(batch.targets):
        return [Part(batch.inputs, batch.targets, batch.weight)]
    return split_batch(batch, size, loop.weigh)


def predictions(
    model: nn.Module, loader: Loader, device: torch.device, ranks: Ranks
) -> Iterator[tuple[Tensor, Tensor]]:
    """What `model` answers to the rank's share of each batch, and the targets, on the CPU."""
    for batch in shares(loader, rank=ranks.rank, world_size=ranks.world_size):
        outputs = call(model, to_device(batch.inputs, device)).float().cpu()
        rows = slice(0, 0) if batch.idle else slice(None)
        yield outputs[rows], batch.targets[rows].cpu()


def _mine(count: int, rank: int, world_size: int) -> tuple[slice, bool]:
    mine = own_rows(count, rank, world_size)
    return (slice(0, 1), True) if mine.start == mine.stop else (mine, False)


def _check(loader: Loader) -> None:
    sampler = getattr(getattr(loader, "iterable", None), "sampler", None)
    if isinstance(sampler, DistributedSampler):
        raise BadInput(
            "this loader shares its samples out among the processes by itself (DistributedSampler), and fulldeck "
            "shares out each batch; give it the sampler that a process alone would have"
        )
