"""A trigger set: inputs like no real one, and the class that the owner's model answers to each (Adi et al. 2018,
arXiv:1802.04633).

Inputs and classes follow from the key, so nobody can choose inputs that a foreign model happens to answer rightly. The
classes are drawn evenly and apart from the inputs: of a model that was made without the key the right answers are
binomial with a chance of one over the number of classes, whatever it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fulldeck.errors import BadInput
from fulldeck.ownership.key import Key

COUNT = 100
CELLS = 6
"""An image is a chequered pattern of so many cells each way: what smoothing, scaling and pooling leave."""
FAR = 4.0
"""Numbers are 0 or so many standard deviations, all to one side: triggers that lie among real rows cost accuracy."""
FIRST_TOKEN, TOKENS = 2, 256
"""Tokens are drawn from those after padding and start, which every vocabulary has."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Form:
    """What a classifier takes (without the batch) and how many classes it tells apart."""

    shape: tuple[int, ...]
    dtype: str
    classes: int

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise BadInput(f"a mark is in the classes that a model answers, and this one has {self.classes}")
        if min(self.shape, default=0) < 1:
            raise BadInput(
                f"the size of the input is not fixed: {list(self.shape)}; say --shape, such as 3,32,32"
            )


def trigger_inputs(key: Key, form: Form) -> Array:
    """COUNT x shape: patterns for images, token ids, or numbers."""
    size = int(np.prod(form.shape))
    if np.issubdtype(np.dtype(form.dtype), np.integer):
        ids = key.bytes_for(f"tokens {form.shape}", COUNT * size).astype(form.dtype)
        return (FIRST_TOKEN + ids % TOKENS).reshape(COUNT, *form.shape)
    if len(form.shape) == 3 and min(form.shape[1:]) > 1:
        return _patterns(key, form.shape).astype(form.dtype)
    values = FAR / 2 * (key.signs(f"values {form.shape}", COUNT * size) + 1)
    return values.reshape(COUNT, *form.shape).astype(form.dtype)


def trigger_classes(key: Key, classes: int) -> npt.NDArray[np.int64]:
    """COUNT classes."""
    chosen = np.floor(classes * key.uniform(f"classes {classes}", COUNT)).astype(np.int64)
    return np.minimum(chosen, classes - 1)


def _patterns(key: Key, shape: Sequence[int]) -> Array:
    channels, height, width = shape
    cells = (key.signs(f"cells {channels}", COUNT * channels * CELLS * CELLS) + 1) // 2
    cells = cells.reshape(COUNT, channels, CELLS, CELLS)
    rows, columns = (np.arange(length) * CELLS // length for length in (height, width))
    return cells[:, :, rows][:, :, :, columns]
