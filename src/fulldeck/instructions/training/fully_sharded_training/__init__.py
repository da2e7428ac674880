"""Train a model that is too large for one process: each holds a share of weights, gradients and optimizer states.

Blocks of the model are put together just before they compute, and dropped again; gradients are added up and
shared out as they come. So a process holds its share of everything, and one block more. As with
distributed_data_parallel, the batch of a recipe is that of all processes together, metrics and decisions are those
of all, and the first one alone writes. At the end the model is put together on the host.

Use when: weights, gradients and optimizer states together do not fit into the memory of one process.
Avoid when: they fit: distributed_data_parallel exchanges less.
Reference: Zhao et al. 2023, arXiv:2304.11277; Rajbhandari et al. 2019, arXiv:1910.02054 (ZeRO). The work is done
by torch.distributed.fsdp.fully_shard (FSDP2).

Example:
    >>> import torch, torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # torchrun has many
    >>> block = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    >>> model = torch.nn.Sequential(block, torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()))
    >>> shards = shard(model)
    >>> shards.blocks
    ['0', '1']
    >>> model(torch.ones(3, 4)).sum().backward()  # of your own loop, on this process's rows
    >>> shards.put_together()  # the model as it was before, with its weights whole
    >>> type(model).__name__, model[0][0].weight.shape
    ('Sequential', torch.Size([4, 4]))
    >>> dist.destroy_process_group()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fulldeck.distributed.process_group import join
from fulldeck.distributed.rank_random import draw_apart
from fulldeck.distributed.spread_training import SpreadTraining
from fulldeck.distributed.two_processes import changes_in_two_processes
from fulldeck.instruction import Evidence, Situation, instruction, param
from fulldeck.instructions.training.fully_sharded_training.sharded_training import ShardedTraining
from fulldeck.instructions.training.fully_sharded_training.shards import shard

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.training.loop import TrainingLoop

__all__ = ["FullyShardedTraining", "shard"]


@instruction(
    26,
    stage="training",
    touches={"sharding"},
    after={
        "weight_averaging": "averaged weights are put in place while they are shared out",
        "optimizer_selection": "its average, where it has one, is put in place while weights are shared out",
        "early_stopping": "the best weights are put back while they are shared out",
    },
    before={
        "parameter_efficient_finetuning": "adapters are merged into whole weights",
        "touches:graph": "what is compiled and timed is this process's share of a batch",
    },
    conflicts={
        "distributed_data_parallel": "both spread the training over processes; leave one out, this one if the model "
        "fits into one process",
        "dynamic_batch_scheduler": "a process that runs out of memory leaves the others waiting for its shares; write "
        "train.micro_batch",
        "quantization_aware_training": "its graph is made in mid-training of weights that are shared out by then; "
        "quantise after training (post_training_quantization)",
    },
    evidence=Evidence(
        workload="stdlib_text",
        settings={"characters": 40_000},
        metric="bytes_a_process",
        expect="<= 0.7x",
    ),
)
class FullyShardedTraining(SpreadTraining):
    blocks: tuple[str, ...] = param(
        (), doc="What is put together at once, by name, pattern or class; left out: the repeated blocks."
    )
    dtype: Literal["float32", "bfloat16"] = param(
        "float32",
        search=("float32", "bfloat16"),
        doc="What the model computes in; gradients are added in float32.",
    )
    reshard: Literal["auto", "always", "never"] = param(
        "auto",
        doc="Drop a block after its forward pass; never keeps it until backward, auto keeps what is outside blocks.",
    )
    cpu_offload: bool = param(
        False, doc="Keep the shares on the host, and send them to the GPU for each pass."
    )

    def cannot(self, situation: Situation) -> str | None:
        """With what only GPUs can be relieved by."""
        if self.cpu_offload and situation.device == "cpu":
            return "cpu_offload keeps shares on the host, and this training is there already; leave it out"
        return super().cannot(situation)

    def attach(self, loop: TrainingLoop) -> None:
        """Share the model out among the processes that a launcher started; alone, do nothing.

        Raises what `fulldeck.distributed.process_group.join` raises, BadInput if nothing matches an entry of `blocks`.
        """
        loop.ranks = join(self.together(), loop.device.type)
        if loop.ranks.world_size == 1:
            return
        training = ShardedTraining(self, loop)
        loop.wrap_model(training.wrap)
        loop.deploy_with(training.as_shares)
        loop.on("ready", training.announce)
        loop.around("gradients", training.gradients)
        draw_apart(loop)
        loop.on("step_end", training.weigh)
        loop.on("hand_over", training.put_together)

    def prove(self, outcome: Outcome) -> float:
        """bytes_a_process: weights, gradients and optimizer states that one of two processes holds after a step.

        Without this instruction: all of them, as distributed_data_parallel holds them.
        """
        own = any(entry.instruction.card.name == self.card.name for entry in outcome.recipe.entries)
        return changes_in_two_processes(outcome, self)["bytes_a_process"]["after" if own else "before"]
