"""A mark in the weights: sums over a layer, with signs that the key draws, have signs that the key draws (Uchida et al.
2017, arXiv:1701.04082).

To a model that was made without the key each of these bits is the toss of a coin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fulldeck.ownership.key import Key

BITS = 64
MOST_WEIGHTS = 2**15
"""Only so many of a layer's weights, the first ones, carry it; more cost time and change nothing."""
LEAST_WEIGHTS = 2**11
"""Below, the mark would move each weight by too much."""

Array = npt.NDArray[Any]


def projection(key: Key, size: int) -> npt.NDArray[np.int8]:
    """BITS x n signs for a layer of `size` weights, of which n = min(size, MOST_WEIGHTS) are looked at."""
    used = min(size, MOST_WEIGHTS)
    return key.signs(f"projection {size}", BITS * used).reshape(BITS, used)


def bits(key: Key) -> npt.NDArray[np.int8]:
    """The signs that the sums have in a marked layer."""
    return key.signs("bits", BITS)


def matching(key: Key, weights: Array) -> int:
    """How many of the BITS a layer has, as it lies."""
    flat = weights.reshape(-1)[:MOST_WEIGHTS].astype(np.float64)
    sums = projection(key, weights.size) @ (flat - flat.mean())
    return int(np.count_nonzero(np.where(sums >= 0, 1, -1) == bits(key)))


def candidates(weights: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """The layers that may be the marked one, matrices both ways round: exports turn them."""
    for name, value in weights.items():
        if value.ndim < 2 or value.size < LEAST_WEIGHTS:
            continue
        yield name, value
        if value.ndim == 2:
            yield f"{name} (turned)", value.T
