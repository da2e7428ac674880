"""What checkpointing each block saves and costs, and the cheapest blocks that save enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class BlockCost:
    """What checkpointing a block saves and costs: bytes kept for backward, seconds of its forward pass."""

    bytes: int
    seconds: float


def block_costs(model: nn.Module, run: Callable[[], object], names: Sequence[str]) -> dict[str, BlockCost]:
    """Measure the blocks of `model` called `names` in a forward pass, which `run` does (twice).

    Bytes are those of all tensors that autograd keeps for the block, without its weights and its input.
    """
    meters = {name: _Meter(model.get_submodule(name), model) for name in names}
    # As they are: with the meters in them, blocks that are compiled would be compiled anew.
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        run()  # what is done once only is not the block's
        for meter in meters.values():
            meter.start()
        kept = run()
    for meter in meters.values():
        meter.stop()
    del kept
    return {name: BlockCost(meter.bytes, meter.seconds) for name, meter in meters.items()}


class _Meter:
    """Adds up seconds and saved bytes of one block's forward passes."""

    def __init__(self, block: nn.Module, model: nn.Module) -> None:
        self.block = block
        self.own = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self.known: set[int] = set()
        self.bytes = 0
        self.seconds = 0.0
        self.handles: list[Any] = []

    def start(self) -> None:
        self.handles = [
            self.block.register_forward_pre_hook(self._enter, with_kwargs=True),
            self.block.register_forward_hook(self._leave),
        ]

    def stop(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _enter(self, block: nn.Module, inputs: Any, named: Any) -> None:
        self.known = self.own | {
            _storage(one) for one in tree_leaves((inputs, named)) if isinstance(one, Tensor)
        }
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept)
        self.hooks.__enter__()
        _wait()
        self.since = time.perf_counter()

    def _leave(self, block: nn.Module, inputs: Any, outputs: Any) -> None:
        _wait()
        self.seconds += time.perf_counter() - self.since
        self.hooks.__exit__(None, None, None)

    def _pack(self, tensor: Tensor) -> Tensor:
        if (storage := _storage(tensor)) not in self.known:
            self.known.add(storage)
            self.bytes += tensor.untyped_storage().nbytes()
        # A node that keeps its own output itself is never freed.
        return tensor.detach()


def blocks_to_checkpoint(costs: Mapping[str, BlockCost], room: int) -> list[str]:
    """The blocks to checkpoint so that the others keep at most `room` bytes, for little recomputation.

    Blocks with the most seconds per byte are the first to keep their activations.
    """
    free: set[str] = set()
    for name in sorted(costs, key=lambda name: costs[name].seconds / max(costs[name].bytes, 1), reverse=True):
        if costs[name].bytes <= room:
            room -= costs[name].bytes
            free.add(name)
    return [name for name in costs if name not in free]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
