"""What an engine process does before it takes requests: compare the model with its package, and time batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from statistics import median
from time import perf_counter

import numpy as np

from fulldeck.engines import Engine
from fulldeck.errors import BadInput
from fulldeck.package import Package, PackagedModel
from fulldeck.package.reference import differs, read_reference
from fulldeck.serving.protocol import DATATYPES
from fulldeck.serving.wire import Tensors

SECONDS = 1.0
"""Time for all sizes together; larger ones are left out, not hurried."""
REPEATS, ENOUGH_SECONDS = 20, 0.02
"""Most batches of one size, and the time after which three are enough."""
FEW = 3
ANY_SIZE = 16
"""What is tried for an axis of any size."""

Size = tuple[int, float, float, float]
"""Rows, seconds of the first batch, of the median and of the slowest later one."""


def warm_up(engine: Engine, package: Package, form: PackagedModel, *, largest: int) -> list[Size]:
    """Times of batches of 1, 2, 4, ... up to `largest` rows, as far as time allows.

    Raises BadInput if the model does not answer what it did where it was packaged.
    """
    reference = read_reference(package.folder, form)
    inputs = reference[0] if reference is not None else blank(package)
    if reference is not None:
        difference = differs(engine.run(inputs), reference[1], form.precision)
        if difference is not None:
            raise BadInput(
                f"{form.path} does not answer as it did where it was packaged: {difference}; package it on a "
                "machine like this one, or serve it with another engine"
            )
    found: list[Size] = []
    end = perf_counter() + SECONDS
    for rows in sizes(largest):
        if found and perf_counter() + (FEW + 1) * found[-1][2] * rows / found[-1][0] > end:
            break
        batch = {name: np.resize(array, (rows, *array.shape[1:])) for name, array in inputs.items()}
        try:
            times = timed(engine, batch)
        except Exception:  # engines raise what they like at zeros, and at sizes that they do not take
            break
        found.append((rows, times[0], median(times[1:]), max(times[1:])))
    return found


def sizes(largest: int) -> Iterator[int]:
    """1, 2, 4, ... and `largest` itself."""
    yield from takewhile(lambda size: size < largest, (2**power for power in range(32)))
    yield largest


def timed(engine: Engine, batch: Tensors) -> list[float]:
    """Seconds of some runs of one batch, the first one first."""
    times: list[float] = []
    while len(times) <= FEW or (sum(times[1:]) < ENOUGH_SECONDS and len(times) <= REPEATS):
        begun = perf_counter()
        engine.run(batch)
        times.append(perf_counter() - begun)
    return times


def blank(package: Package) -> Tensors:
    """One row of zeros."""
    return {
        spec.name: np.zeros(
            (1, *(size if size >= 0 else ANY_SIZE for size in spec.shape[1:])), DATATYPES[spec.datatype]
        )
        for spec in package.service.inputs
    }
