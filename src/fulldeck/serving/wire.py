"""What the API process and an engine process say to each other: frames of named tensors.

A frame on the Unix socket is two lengths, a JSON header, and the tensors' bytes. From LARGE bytes on the
tensors lie in shared memory instead, one piece for each direction, which only its sender writes.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

Array = npt.NDArray[Any]
Tensors = dict[str, Array]

LARGE = 100_000
"""Bytes of a frame's tensors from which they go through shared memory (copying twice costs less below)."""
ALIGNMENT = 64
LENGTHS = struct.Struct("<II")


class SharedMemory:
    """Anonymous memory behind a file descriptor, so that nothing is left when its processes die."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls) -> SharedMemory:
        """New memory, of no size yet."""
        if hasattr(os, "memfd_create"):
            return cls(os.memfd_create("fulldeck"))
        with tempfile.TemporaryFile() as file:
            return cls(os.dup(file.fileno()))

    def at_least(self, size: int, *, grow: bool = False) -> mmap.mmap:
        """The memory, mapped over at least `size` bytes; the sender may make it `grow`."""
        if self._map is None or len(self._map) < size:
            if grow:
                os.ftruncate(self.descriptor, size + size // 2)
            # The old map is freed with the last array that looks into it.
            self._map = mmap.mmap(self.descriptor, 0)
        return self._map

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)


def pack(parts: Mapping[str, Sequence[Array]], memory: SharedMemory, **facts: Any) -> bytes:
    """A frame with `facts` and, for each name, the `parts` joined along the first axis.

    Parts of one name have equal dtypes and equal shapes behind the first axis.
    """
    layout: list[list[Any]] = []
    pieces: list[tuple[int, int, Sequence[Array]]] = []
    size = 0
    for name, arrays in parts.items():
        rows = sum(map(len, arrays))
        room = sum(array.nbytes for array in arrays)
        layout.append([name, arrays[0].dtype.str, [rows, *arrays[0].shape[1:]], size])
        pieces.append((size, size + room, arrays))
        size += _aligned(room)
    large = size >= LARGE
    payload: bytearray | mmap.mmap = memory.at_least(size, grow=True) if large else bytearray(size)
    for start, end, arrays in pieces:
        if end > start:
            shape = (-1, *arrays[0].shape[1:])
            place = np.frombuffer(payload, "u1", end - start, start).view(arrays[0].dtype).reshape(shape)
            np.concatenate(arrays, out=place)
    header = orjson.dumps({**facts, "tensors": layout, "shared": size if large else 0})
    return b"".join((LENGTHS.pack(len(header), 0 if large else size), header, b"" if large else payload))


def unpack(
    header: bytes, payload: bytes, memory: SharedMemory, *, copy: bool = False
) -> tuple[dict[str, Any], Tensors]:
    """The facts and the tensors of a frame. Shared tensors are views, valid until the sender's next frame;
    with `copy` they are copies."""
    facts = orjson.loads(header)
    shared = facts.pop("shared")
    source = memory.at_least(shared) if shared else payload
    tensors = {}
    for name, dtype, shape, start in facts.pop("tensors"):
        count = prod(shape)
        flat = np.frombuffer(source, dtype, count, start) if count else np.empty(0, dtype)
        tensors[name] = (flat.copy() if copy and shared else flat).reshape(shape)
    return facts, tensors


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
