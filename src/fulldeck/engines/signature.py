"""What a model takes: names, types and sizes of its inputs, checked before an engine sees them.

Compiled engines do not look: AOTInductor reads past the end of an array that is too small, and OpenVINO takes
an image of three channels for a model of one. So every engine checks first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from fulldeck.data import Array
from fulldeck.engines.shapes import Range, Shapes
from fulldeck.errors import BadInput, closest


@dataclass(frozen=True)
class Signature:
    """By input: the NumPy name of its type (`float32`), and the sizes that each axis may have, batch first."""

    inputs: Mapping[str, tuple[str, tuple[Range, ...]]]

    @classmethod
    def of(cls, example: Mapping[str, Array], shapes: Mapping[str, tuple[Range, ...]]) -> Self:
        """The types of `example`, and `shapes`."""
        return cls({name: (value.dtype.name, shapes[name]) for name, value in example.items()})

    def check(self, inputs: Mapping[str, Array]) -> None:
        """Raises BadInput that names the first input that is missing, unknown, or of another type or shape."""
        for name in inputs:
            if name not in self.inputs:
                there = ", ".join(self.inputs)
                raise BadInput(f'the model has no input "{name}"{closest(name, self.inputs)}; it has {there}')
        for name, (dtype, ranges) in self.inputs.items():
            if name not in inputs:
                raise BadInput(f'input "{name}" is missing')
            value = inputs[name]
            if value.dtype.name != dtype:
                raise BadInput(f'input "{name}" is {value.dtype.name}, and the model takes {dtype}')
            fits = len(value.shape) == len(ranges)
            if not fits or any(size not in one for size, one in zip(value.shape, ranges, strict=True)):
                wanted = " x ".join(str(one) for one in ranges)
                given = " x ".join(map(str, value.shape))
                raise BadInput(f'input "{name}" is {given or "a single value"}, and the model takes {wanted}')

    def narrower(self, shapes: Shapes) -> str | None:
        """Which of the sizes in `shapes` are not taken, in words; None if all are."""
        for name in shapes:
            if name not in self.inputs:
                continue  # a graph leaves out what it has no use for
            for wanted, taken in zip(shapes[name], self.inputs[name][1], strict=True):
                high = taken.high is None if wanted.high is None else wanted.high in taken
                if wanted.low not in taken or not high:
                    return f"it takes {taken} along an axis of {name}, and {wanted} is asked for"
        return None

    def zeros(self) -> dict[str, Array]:
        """Inputs of the best sizes, all zero."""
        return {
            name: np.zeros([one.best for one in ranges], dtype)
            for name, (dtype, ranges) in self.inputs.items()
        }

    def to_json(self) -> dict[str, Any]:
        return {
            name: {"dtype": dtype, "shape": [[one.low, one.best, one.high] for one in ranges]}
            for name, (dtype, ranges) in self.inputs.items()
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        return cls(
            {
                name: (str(one["dtype"]), tuple(Range(*sizes) for sizes in one["shape"]))
                for name, one in content.items()
            }
        )
