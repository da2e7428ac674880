"""The input pipeline without training: how fast it is, and how much of what it brings is padding."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor

from fulldeck.data import Data
from fulldeck.diagnosis.findings import Pipeline
from fulldeck.training.batch import Tensors
from fulldeck.training.loader import Loader

MOST_BATCHES, SECONDS = 100, 1.0
PADDING = 0
"""The id of padding where the encoder names none."""


def measure_pipeline(loader: Loader, data: Data | None, epoch: int) -> Pipeline:
    """Read batches of `epoch` for at most SECONDS."""
    encoder = None if data is None else data.encoder
    identity = getattr(encoder, "padding", PADDING)
    waste: list[tuple[float, float]] = []
    spent, count = 0.0, 0
    batches = iter(islice(loader.batches(epoch), MOST_BATCHES))
    while spent < SECONDS:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        spent += time.perf_counter() - start
        count += 1
        if (one := padding(batch[0], identity)) is not None:
            waste.append(one)
    rate = count / max(spent, 1e-9)
    if not waste:
        return Pipeline(rate)
    share, in_batch = (sum(values) / len(values) for values in zip(*waste, strict=True))
    return Pipeline(rate, share, in_batch)


def padding(inputs: Tensors, identity: int) -> tuple[float, float] | None:
    """The share of padding in rows of ids, and that which is left of it if they are cut to the longest row.

    Padding is what stands at the end of a row and nowhere else. None if no input is rows of whole numbers.
    """
    rows = next((one for one in _tensors(inputs) if one.ndim == 2 and not one.is_floating_point()), None)
    if rows is None or rows.shape[1] < 2:
        return None
    places = torch.arange(1, rows.shape[1] + 1)
    lengths = torch.where(rows.cpu() != identity, places, 0).amax(dim=1).double()
    longest = max(float(lengths.max()), 1.0)
    return 1 - float(lengths.mean()) / rows.shape[1], 1 - float(lengths.mean()) / longest


def _tensors(inputs: Tensors) -> Iterable[Tensor]:
    return inputs.values() if isinstance(inputs, dict) else [inputs]
