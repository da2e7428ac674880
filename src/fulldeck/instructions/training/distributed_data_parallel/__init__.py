"""Train on several processes at once, each with a copy of the model and a share of every batch (DDP).

Each process computes its share of the batch that one process would compute, and while the backward pass goes on
gradients are added up over all of them; so every copy makes the same step. The batch of a recipe is that of all
processes together: the same recipe learns the same on any number of them, up to rounding. Metrics, early
stopping, schedules and checkpoints are those of all; the first process alone writes. Of a batch that is computed
in parts, gradients are exchanged once. What waiting for the exchange costs a step is measured and reported.

    fulldeck run recipe.yaml --nproc 2                                  two processes on this machine
    torchrun --nnodes 4 --nproc-per-node 8 ... -m fulldeck run recipe.yaml   on many, elastic

Three things are not the same as in one process: on a CPU batch-norm takes its statistics from each share (the running
ones are averaged; GPUs take those of all rows), dropout draws other masks, and compression rounds gradients. Runs in
which that happens say so. With `average_every` it is another training, local SGD: each process makes steps by its own
gradients, and every so many steps all take the mean of their weights and of their optimizers' moments, which is also
done before anything is evaluated, kept or handed over. It pays where the exchange takes longer than the rest of a step,
as between machines; then `apart: machine` lets the processes of each go on exchanging gradients among themselves.

Use when: a step takes long, and there are several GPUs or machines; on one machine without GPUs it gains nothing
over threads.
Avoid when: the model does not fit into the memory of one (fully_sharded_training); steps are shorter than the
exchange of the gradients.
Reference: Li et al. 2020, arXiv:2006.15704. The work is done by torch.nn.parallel.DistributedDataParallel. Local SGD:
Stich 2019, arXiv:1805.09767; with averaged moments: Yu et al. 2019, arXiv:1905.03817.

Example:
    >>> import gc, torch, torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # torchrun has many
    >>> model = torch.nn.Linear(4, 2)
    >>> replicas = replicate(model, compression="bfloat16")
    >>> replicas(torch.ones(3, 4)).sum().backward()  # of your own loop, on this process's rows
    >>> model.weight.grad[0].tolist()  # the mean over the processes
    [3.0, 3.0, 3.0, 3.0]
    >>> del replicas; _ = gc.collect()  # or it would be the last to hold the group, and wait for ever for its thread
    >>> dist.destroy_process_group()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from fulldeck.distributed.process_group import ON_DEVICE, join
from fulldeck.distributed.rank_random import draw_apart
from fulldeck.distributed.spread_training import SpreadTraining
from fulldeck.distributed.two_processes import changes_in_two_processes
from fulldeck.errors import BadInput
from fulldeck.instruction import Evidence, Instruction, Situation, instruction, param
from fulldeck.instructions.training.distributed_data_parallel.exchange import (
    Compression,
    refuse_compression,
    replicate,
)
from fulldeck.instructions.training.distributed_data_parallel.local_steps import Apart, refuse_beside
from fulldeck.instructions.training.distributed_data_parallel.replicated_training import ReplicatedTraining

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.training.loop import TrainingLoop

__all__ = ["DistributedDataParallel", "replicate"]

PARTS = 4
"""Of a process's share of a batch, in the evidence."""


@instruction(
    22,
    stage="training",
    touches={"sharding"},
    before={
        "touches:graph": "what is compiled and timed is this process's share of a batch",
        "touches:batch_size": "what is done again for want of memory is done before anything is exchanged",
    },
    conflicts={
        "fully_sharded_training": "both spread the training over processes; leave one out, this one if the model "
        "does not fit into one device"
    },
    recipe_key="distributed",
    evidence=Evidence(
        workload="stdlib_text",
        settings={"characters": 40_000},
        metric="exposed_communication_ms",
        expect="<= 0.5x",
    ),
)
class DistributedDataParallel(SpreadTraining):
    find_unused_parameters: bool = param(
        False, doc="For models that do not use every parameter in every step; costs a walk over the graph."
    )
    gradient_predivide_factor: float | None = param(
        None,
        gt=0,
        doc="What gradients are divided by before they are added, the rest after; left out: by all of it before. "
        "Guards 16-bit sums against overflow; it moves no fewer bytes.",
    )
    bucket_mb: float = param(
        25.0, gt=0, search=(5.0, 25.0, 100.0), doc="Megabytes of gradients that are exchanged at once."
    )
    static_graph: bool = param(
        False, doc="The same parameters are used in the same order in every step: DDP may rely on it."
    )
    exchange: Literal["last", "every"] = param(
        "last",
        doc="Of a batch that is computed in parts: gradients are exchanged once, with the last part; every is what DDP "
        "does by itself.",
    )
    sync_batch_norm: bool = param(
        True, doc="On GPUs batch-norm takes its statistics from the rows of all processes (SyncBatchNorm)."
    )
    compression: Compression = param(
        "none",
        search=("none", "bfloat16"),
        doc="What is exchanged: gradients as they are, or with fewer bits.",
    )
    average_every: int | None = param(
        None, ge=2, doc="Local SGD: all take the mean of weights and moments every so many steps."
    )
    apart: Apart = param(
        "process",
        doc="With average_every, who makes steps apart: each process, or each machine, whose processes exchange "
        "gradients.",
    )

    @model_validator(mode="after")
    def _gradients_that_are_compressed_are_exchanged(self) -> Self:
        if self.average_every is not None and self.apart == "process" and self.compression != "none":
            raise ValueError(
                "compression is of gradients, and with average_every none are exchanged; leave one of them out, or "
                "write apart: machine"
            )
        return self

    def clash(self, other: Instruction) -> str | None:
        """With average_every also what would come to be another thing on each process."""
        return (None if self.average_every is None else refuse_beside(other)) or super().clash(other)

    def cannot(self, situation: Situation) -> str | None:
        """With a compression that the backend cannot do."""
        try:
            backend = ON_DEVICE.get(situation.device, "gloo") if self.backend == "auto" else self.backend
            refuse_compression(self.compression, backend)
        except BadInput as error:
            return str(error)
        return super().cannot(situation)

    def attach(self, loop: TrainingLoop) -> None:
        """Exchange gradients with the other processes that a launcher started; alone, do nothing.

        Raises what `fulldeck.distributed.process_group.join` raises.
        """
        loop.ranks = join(self.together(), loop.device.type)
        if loop.ranks.world_size == 1:
            return
        training = ReplicatedTraining(self, loop)
        loop.exchange = training
        loop.wrap_model(training.wrap)
        loop.around("gradients", training.gradients)
        draw_apart(loop)
        loop.around("part", training.part)
        loop.on("ready", training.warn)
        loop.on("epoch_end", training.look_at_clock)
        loop.on("fit_end", training.report)
        loop.on("hand_over", training.release)

    def prove(self, outcome: Outcome) -> float:
        """exposed_communication_ms: what a step of two processes waits for the exchange, its batch in four parts.

        Without this instruction: of DDP by itself, which exchanges after each part.
        """
        own = any(entry.instruction.card.name == self.card.name for entry in outcome.recipe.entries)
        exchanging = self if own else type(self)(exchange="every")
        return changes_in_two_processes(outcome, exchanging, parts=PARTS)["communication_ms"]["after"]
