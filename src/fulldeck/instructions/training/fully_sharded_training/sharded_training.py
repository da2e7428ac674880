"""One training whose model is shared out among the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fulldeck.blocks import named_blocks
from fulldeck.distributed.own_rows import average, inexact
from fulldeck.distributed.spread_tensor import is_spread
from fulldeck.errors import BadInput
from fulldeck.instructions.training.fully_sharded_training.shards import Shards, shard
from fulldeck.training.batch_norm import running_statistics

if TYPE_CHECKING:
    from fulldeck.instructions.training.fully_sharded_training import FullyShardedTraining
    from fulldeck.training.batch import Batch
    from fulldeck.training.loop import TrainingLoop


class ShardedTraining:
    """This rank's share of a model, from the start of the training to the hand-over."""

    def __init__(self, instruction: FullyShardedTraining, loop: TrainingLoop) -> None:
        self.instruction = instruction
        self.loop = loop
        self.shards: Shards | None = None
        self.statistics: list[Tensor] = []
        self.figures = loop.figures()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Share the model out. Raises BadInput for one that was changed since."""
        own = self.instruction
        if self.shards is not None:
            raise BadInput(
                "fully_sharded_training: the model is changed in mid-training, which its shares cannot follow; "
                "write distributed_data_parallel in its place"
            )
        self.shards = shard(
            model,
            blocks=named_blocks(model, own.blocks, "fully_sharded_training") if own.blocks else None,
            dtype=torch.bfloat16 if own.dtype == "bfloat16" else torch.float32,
            reshard=own.reshard,
            cpu_offload=own.cpu_offload,
        )
        self.statistics = list(running_statistics(model).values())
        self.figures["blocks_put_together"] = {"after": len(self.shards.blocks)}
        return model

    @contextmanager
    def as_shares(self) -> Iterator[None]:
        """What is put together for an evaluation must not outlive the exchange of weights before and after it."""
        self.drop()
        try:
            yield
        finally:
            self.drop()

    def drop(self) -> None:
        if self.shards is not None:
            self.shards.drop()

    def announce(self) -> None:
        """Whoever holds on to parameters takes the shares that there are now; say what differs from one process."""
        self.loop.model_was_changed()
        if said := inexact(self.loop.model):
            self.loop.notes.append(
                f"fully_sharded_training: not exactly the training of one process: {', '.join(said)}"
            )

    def gradients(self, batch: Batch, inner: Callable[[Batch], None]) -> None:
        """What is trained beside the model is not shared out: its gradients are the mean over the ranks.

        So are batch-norm's statistics, which each rank gathers from its own rows.
        """
        inner(batch)
        average(self.statistics, self.loop.ranks)
        for parameter in self.loop.companions.parameters():
            if parameter.grad is not None:
                parameter.grad = self.loop.ranks.mean(parameter.grad)

    def weigh(self, batch: Batch) -> None:
        """After a step, when all that stays is there: what this rank holds, and what all of it is."""
        if "bytes_a_process" in self.figures:
            return
        held = [*self.loop.parameters(), *(p.grad for p in self.loop.parameters() if p.grad is not None)]
        held += [v for o in self.loop.optimizers for s in o.state.values() for v in s.values()]
        tensors = [one for one in held if isinstance(one, Tensor)]
        self.figures["bytes_a_process"] = {
            "before": float(sum(one.numel() * one.element_size() for one in tensors)),
            "after": float(sum(_local(one).nbytes for one in tensors)),
        }

    def put_together(self) -> None:
        """Every rank gets the whole model, on the host."""
        assert self.shards is not None
        self.shards.put_together()


def _local(tensor: Any) -> Tensor:
    local: Tensor = tensor.to_local() if is_spread(tensor) else tensor
    return local
