"""What one optimizer step is computed from, and the parts that it is computed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, overload

import torch
from torch import Tensor, nn

Tensors = Tensor | dict[str, Tensor]
"""The model's input: one tensor, or several that are passed by name; the batch comes first."""


LossFunction = Callable[[Any, Tensor], Tensor]
"""Outputs and targets to the mean loss over the samples."""
Metric = Callable[[Tensor, Tensor], float | Tensor]
"""All outputs and all targets to one figure."""


@dataclass(slots=True)
class Batch:
    """What one optimizer step is computed from: `weight` is its number of samples (or tokens).

    Of several processes each has a share of it; `weight` is then that of the mean share.
    """

    inputs: Tensors
    targets: Tensor
    weight: float = 0.0
    whole: Tensor | None = None
    """The targets of all processes together; None for a process alone."""
    first: int = 0
    """The place in the whole of the first row here."""
    idle: bool = False
    """There was no row left for this process: it computes one that counts nothing, for the company."""


@dataclass(slots=True)
class Part:
    """A micro-batch. `loss` is the mean over the part; `terms` are added to it, as means too."""

    inputs: Tensors
    targets: Tensor
    weight: float
    """Number of samples (or tokens) of the part."""
    share: float = 1.0
    """`weight` as a share of the whole batch's."""
    start: int = 0
    """Where the part begins in the batch, in samples."""
    last: bool = False
    """Whether the gradient of the batch is whole after this one."""
    outputs: Any = None
    loss: Tensor | None = None
    terms: list[Tensor] = field(default_factory=list)


def rows(targets: Tensor) -> int:
    """How many samples there are; ten times as fast as `len` of a tensor."""
    return targets.shape[0]


def split_batch(batch: Batch, size: int, weigh: Callable[[Tensor], float] = rows) -> list[Part]:
    """Parts of at most `size` samples each, in order; the last one may be smaller."""
    parts = []
    for start in range(0, len(batch.targets), size):
        chosen = slice(start, start + size)
        targets = batch.targets[chosen]
        parts.append(Part(rows_of(batch.inputs, chosen), targets, weigh(targets), start=start))
    return parts


def split_evenly(batch: Batch, count: int, weigh: Callable[[Tensor], float] = rows) -> list[Part]:
    """`count` parts, as even as can be; for want of rows, the last ones have one that counts nothing."""
    there = rows(batch.targets)
    parts: list[Part] = []
    for number in range(count):
        chosen = slice(number * there // count, (number + 1) * there // count)
        empty = chosen.start == chosen.stop
        if empty:
            chosen = slice(there - 1, there)
        inputs, targets = rows_of(batch.inputs, chosen), batch.targets[chosen]
        parts.append(Part(inputs, targets, 0.0 if empty else weigh(targets), start=chosen.start))
    return parts


def rows_of(inputs: Tensors, chosen: slice) -> Tensors:
    """Some rows of one tensor, or of several by name."""
    return inputs[chosen] if isinstance(inputs, Tensor) else {k: v[chosen] for k, v in inputs.items()}


def call(model: nn.Module, inputs: Tensors) -> Any:
    """`model` on one tensor, or on several by name."""
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


@overload
def to_device(inputs: Tensor, device: torch.device) -> Tensor: ...
@overload
def to_device(inputs: Tensors, device: torch.device) -> Tensors: ...
def to_device(inputs: Tensors, device: torch.device) -> Tensors:
    """The same inputs on `device`, copied without waiting where the memory is pinned."""
    if isinstance(inputs, Tensor):
        return inputs if inputs.device == device else inputs.to(device, non_blocking=True)
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
