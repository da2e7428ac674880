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
    """What one optimizer step is computed from. `weight` is its number of samples (or tokens)."""

    inputs: Tensors
    targets: Tensor
    weight: float = 0.0


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
    outputs: Any = None
    loss: Tensor | None = None
    terms: list[Tensor] = field(default_factory=list)


def split_batch(batch: Batch, size: int, weigh: Callable[[Tensor], float] = len) -> list[Part]:
    """Parts of at most `size` samples each, in order; the last one may be smaller."""
    parts = []
    for start in range(0, len(batch.targets), size):
        chosen = slice(start, start + size)
        inputs = batch.inputs
        some = inputs[chosen] if isinstance(inputs, Tensor) else {k: v[chosen] for k, v in inputs.items()}
        targets = batch.targets[chosen]
        parts.append(Part(some, targets, weigh(targets), start=start))
    return parts


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
