"""Where the memory of a training step is, by kind, and how much there is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter

from fulldeck.diagnosis.findings import Memory
from fulldeck.machine import peak_memory
from fulldeck.memory import memory_limit

if TYPE_CHECKING:
    from fulldeck.training.batch import Batch
    from fulldeck.training.loop import TrainingLoop


class SavedForBackward:
    """Adds up the memory that autograd keeps from forward to backward: the activations.

    Use it around a forward pass; `tensors` are those that are counted elsewhere (weights, inputs).
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.known = {one.untyped_storage().data_ptr() for one in tensors}
        self.bytes = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept)

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        # Not the tensor itself, whose graph would hold it: without a backward pass neither were freed.
        return tensor.detach()


def memory_by_kind(loop: TrainingLoop, batch: Batch, gradients: int, activations: int) -> Memory:
    """Bytes by kind; gradients and activations are counted in the step itself."""
    states = (value for optimizer in loop.optimizers for value in optimizer.state.values())
    return Memory(
        weights=size_of([*loop.model.state_dict().values(), *loop.companions.state_dict().values()]),
        gradients=gradients,
        optimizer_state=size_of(list(states)),
        activations=activations,
        batch=size_of([batch.inputs, batch.targets]),
        peak=peak_memory(loop.device),
        limit=memory_limit(loop.device),
    )


def size_of(value: Any) -> int:
    """Bytes of all tensors in nested lists and mappings, shared memory once."""
    storages = {
        one.untyped_storage().data_ptr(): one.untyped_storage().nbytes()
        for one in tree_iter(value)
        if isinstance(one, Tensor)
    }
    return sum(storages.values())
