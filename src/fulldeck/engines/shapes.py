"""Which sizes a compiled model is to take: `--shapes 1:8:64`, `--shapes input=1:1:256x3x224x224`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fulldeck.data import Array
from fulldeck.errors import BadInput, closest

LARGEST_BATCH = 256
"""Most rows of one call, unless `--shapes` says otherwise."""
_RANGE = re.compile(r"(\d+)(?::(\d+))?(?::(\d+))?")


@dataclass(frozen=True)
class Range:
    """Sizes of one axis: from `low` to `high` (None: any), fastest at `best`."""

    low: int
    best: int
    high: int | None

    def __contains__(self, size: int) -> bool:
        return self.low <= size and (self.high is None or size <= self.high)

    def __str__(self) -> str:
        if self.fixed:
            return str(self.low)
        return f"{self.low} to {self.high}" if self.high is not None else f"at least {self.low}"

    @property
    def fixed(self) -> bool:
        """Whether there is one size only."""
        return self.low == self.high


Shapes = Mapping[str, tuple[Range, ...]]


def any_size() -> Range:
    """An axis that a file leaves free."""
    return Range(1, 1, None)


def shapes_of(example: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, tuple[Range, ...]]:
    """The sizes to compile for: those of `example` with any batch to LARGEST_BATCH, changed by `wanted`.

    `wanted` has words as on the command line. `8`, `1:64` or `1:8:64` is the batch of every input: a fixed
    size, least and largest, or least, best and largest; `NAME=1:8:64x3x224x224` all axes of one input.
    Raises BadInput.
    """
    shapes = {
        name: (Range(1, 1, LARGEST_BATCH), *(Range(size, size, size) for size in value.shape[1:]))
        for name, value in example.items()
    }
    for word in wanted:
        name, _, sizes = word.rpartition("=")
        if not name:
            shapes = {key: (_range(sizes, word), *axes[1:]) for key, axes in shapes.items()}
            continue
        if name not in shapes:
            there = ", ".join(shapes)
            raise BadInput(
                f'--shapes {word}: there is no input "{name}"{closest(name, shapes)}; it is {there}'
            )
        axes = tuple(_range(size, word) for size in sizes.split("x"))
        if len(axes) != len(shapes[name]):
            raise BadInput(f"--shapes {word}: {name} has {len(shapes[name])} axes, the batch first")
        shapes[name] = axes
    return shapes


def _range(text: str, word: str) -> Range:
    match = _RANGE.fullmatch(text)
    sizes = [int(part) for part in match.groups() if part is not None] if match else []
    low, best, high = (
        sizes * 3 if len(sizes) == 1 else [sizes[0], *sizes] if len(sizes) == 2 else sizes
    ) or (
        0,
        0,
        0,
    )
    if not 1 <= low <= best <= high:
        raise BadInput(
            f'--shapes {word}: "{text}" is no range of sizes; write 8, 1:64 (least:largest) or 1:8:64 '
            "(least:best:largest)"
        )
    return Range(low, best, high)


def all_fixed(shapes: Shapes) -> bool:
    return all(one.fixed for axes in shapes.values() for one in axes)
