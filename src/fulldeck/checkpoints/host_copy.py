"""Copies of tensors on the host, in memory that is used again: what a thread may write while training goes on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class HostCopy:
    """Takes one copy after another; each one replaces the copy before it.

    On an accelerator the copies lie in pinned memory, so that they are made at the speed of the bus. Fresh
    memory costs several times the copying itself; that is why it is kept.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Contiguous copies of `tensors`, by name; complete when this returns."""
        copies = {name: self._buffer(name, tensor) for name, tensor in tensors.items()}
        elsewhere = False
        for name, tensor in tensors.items():
            copies[name].copy_(tensor, non_blocking=True)
            elsewhere |= tensor.device.type != "cpu"
        if elsewhere:
            torch.accelerator.synchronize()
        self._buffers = copies
        return copies

    def _buffer(self, name: str, tensor: Tensor) -> Tensor:
        there = self._buffers.get(name)
        if there is not None and there.shape == tensor.shape and there.dtype == tensor.dtype:
            return there
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type != "cpu")
