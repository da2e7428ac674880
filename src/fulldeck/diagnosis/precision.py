"""What precision each layer of a trained model would tolerate: its weights rounded, all else as it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from fulldeck.diagnosis.findings import Layer

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
TOLERATED = 0.02
"""Change of the outputs, relative to their size, up to which a type counts as tolerated."""
LONGEST = 30.0
"""Seconds after which no further layer is tried; the largest come first."""


@torch.no_grad()
def precision_of_layers(module: nn.Module, outputs: Callable[[], Tensor]) -> tuple[Layer, ...]:
    """Each layer with weights, the largest first, and what rounding those of it alone changes.

    `outputs` runs the model on the same rows each time. A layer that was not tried has no errors.
    """
    found = [
        (Layer(name, type(one).__name__, one.weight.numel() * one.weight.element_size(), {}), one.weight)
        for name, one in module.named_modules()
        if isinstance(one, KINDS) and one.weight.is_floating_point()
    ]
    found.sort(key=lambda pair: -pair[0].bytes)
    reference = outputs()
    size = float(reference.square().mean().sqrt()) or 1.0
    end = time.monotonic() + LONGEST
    tried = []
    for layer, weight in found:
        if time.monotonic() < end:
            errors = {}
            kept = weight.clone()
            for name, rounded in (
                ("int8", rounded_to_int8(kept)),
                ("bfloat16", kept.bfloat16().to(kept.dtype)),
            ):
                weight.copy_(rounded)
                errors[name] = float((outputs() - reference).square().mean().sqrt()) / size
            weight.copy_(kept)
            layer = replace(layer, error=errors)
        tried.append(layer)
    return tuple(tried)


def rounded_to_int8(weight: Tensor) -> Tensor:
    """`weight` (channels first) as symmetric int8 with one scale a channel would hold it."""
    scale = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True).clamp_min(1e-12) / 127
    return (weight / scale).round() * scale
