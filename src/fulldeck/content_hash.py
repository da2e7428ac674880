"""What an item is known by: a hash of its content, not of its place."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fulldeck.data import Array, Inputs

Hashes = npt.NDArray[np.uint64]


def content_hash(inputs: Inputs) -> Hashes:
    """A 64-bit hash of each of N items, the same on every machine and in every process.

    Texts count as equal if they differ in case, white space or Unicode form only; numbers in a table if
    they are equal as float64; arrays if they are equal in type, shape and value.
    """
    if isinstance(inputs, dict):
        return _rows(np.stack([_cells(inputs[name]) for name in sorted(inputs)], axis=1))
    if isinstance(inputs, list) or inputs.dtype.kind in "OUS" or inputs.ndim == 1:
        return mix(_cells(inputs))
    return _rows(inputs)


def _rows(array: Array) -> Hashes:
    if array.dtype.kind == "f":
        array = array + 0.0  # -0.0 equals 0.0
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    start = hashlib.blake2b(f"{array.dtype.str}{array.shape[1:]}".encode(), digest_size=8)
    digests = []
    for row in array.reshape(len(array), math.prod(array.shape[1:])).view(np.uint8):
        digest = start.copy()
        digest.update(row.data)
        digests.append(digest.digest())
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _cells(column: Array | Sequence[Any]) -> Hashes:
    if isinstance(column, np.ndarray) and column.dtype.kind in "biuf":
        values = column.astype(np.float64) + 0.0
        return np.where(np.isnan(values), np.nan, values).view(np.uint64)
    if isinstance(column, np.ndarray) and column.dtype.kind in "mM":
        return column.astype(np.int64).view(np.uint64)
    known: dict[Any, int] = {}
    for value in column:
        if value not in known:
            digest = hashlib.blake2b(_canonical(value).encode(), digest_size=8).digest()
            known[value] = int.from_bytes(digest, "little")
    return np.fromiter((known[value] for value in column), dtype=np.uint64, count=len(column))


def _canonical(value: Any) -> str:
    return " ".join(unicodedata.normalize("NFKC", str(value)).casefold().split())


def mix(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele et al. 2014): spreads 64-bit values evenly, one to one."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
