"""What an instruction prepares: examples in three splits, and how a raw item becomes a model's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from fulldeck.encoders import Encoder

Array = npt.NDArray[Any]
Inputs = Array | list[str] | dict[str, Array]
"""Raw inputs of N examples: an array with N rows (uint8 images are N x C x H x W), N texts, or columns of
N values each."""

Kind = Literal["image", "table", "text", "tokens", "tensor"]
Task = Literal["classification", "regression", "language_modelling"]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Examples:
    """N inputs with their targets: int64 class indices, or float32 values for regression.

    For language modelling both are N x T token ids; a target of -100 is not to be predicted.

    `groups` and `times`, where given, are what a group or time split goes by.
    """

    inputs: Inputs
    targets: Array
    groups: Array | None = None
    times: Array | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: npt.ArrayLike) -> Self:
        """The examples at `indices` (or where a boolean mask holds), in that order."""
        chosen = np.asarray(indices)
        return replace(
            self,
            inputs=take(self.inputs, chosen),
            targets=self.targets[chosen],
            groups=None if self.groups is None else self.groups[chosen],
            times=None if self.times is None else self.times[chosen],
        )


@dataclass(frozen=True)
class Data:
    """Examples in splits, with what travels beside them.

    Before the split is made, everything is in `train`, and `validation` and `test` are None. `encoder`
    turns raw inputs into the model's and travels to the server; it is None until it has been fitted, on
    `train` only. `carried` holds what an instruction leaves for its later doors, under its label.
    `notes` are said to the user: what was inferred, left out or repaired.
    """

    name: str
    kind: Kind
    task: Task
    train: Examples
    validation: Examples | None = None
    test: Examples | None = None
    classes: tuple[str, ...] = ()
    encoder: Encoder | None = None
    carried: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()

    def splits(self) -> dict[str, Examples]:
        """The splits that there are, by name."""
        named = zip(SPLITS, (self.train, self.validation, self.test), strict=True)
        return {name: examples for name, examples in named if examples is not None}

    def noting(self, *notes: str) -> Self:
        """The same data with `notes` added."""
        return replace(self, notes=(*self.notes, *notes))

    def carrying(self, label: str, value: Any) -> Self:
        """The same data, with `value` left under `label` for a later door."""
        return replace(self, carried=MappingProxyType({**self.carried, label: value}))


def take(inputs: Inputs, indices: Array) -> Inputs:
    """The rows of `inputs` at `indices`, or where a boolean mask holds."""
    if isinstance(inputs, dict):
        return {name: column[indices] for name, column in inputs.items()}
    if isinstance(inputs, list):
        rows: Sequence[int] = np.flatnonzero(indices) if indices.dtype == bool else indices  # type: ignore[assignment]
        return [inputs[row] for row in rows]
    return inputs[indices]


def joined(first: Inputs, second: Inputs) -> Inputs:
    """The rows of both, one after the other; they must be of one form."""
    if isinstance(first, dict):
        assert isinstance(second, dict)
        return {name: np.concatenate([column, second[name]]) for name, column in first.items()}
    if isinstance(first, list):
        return [*first, *second]
    return np.concatenate([first, np.asarray(second)])
