"""Recompute activations in the backward pass instead of keeping them.

Of each checkpointed block only the input is kept; its inside is computed again when its gradient is due.
Gradients are exactly those of plain training, also with dropout (random numbers are drawn again from the
same state), mixed precision and batch-norm: the recomputation sees the buffers that the first pass saw, and
does not move them a second time.

`keep` spares the recomputation what is costly inside a block. With a `budget` the cheapest blocks are
checkpointed that make the training fit: two steps run with all of them, while the bytes and seconds of each
block and the memory of the whole are measured; then blocks with the most seconds per byte are let go.

Use when: peak memory limits the batch size or the length.
Avoid when: memory is no limit: each step takes up to a third longer. On a CPU without a `budget` start with
MALLOC_MMAP_THRESHOLD_=65536, or the C allocator keeps what is freed and hides the gain.
Reference: Chen et al. 2016, arXiv:1604.06174; Korthikanti et al. 2022, arXiv:2205.05198 (selective). The work
is done by `torch.utils.checkpoint`.

Example:
    >>> import torch
    >>> block = lambda: torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
    >>> model = torch.nn.Sequential(block(), block(), block(), torch.nn.Linear(8, 1))
    >>> checkpointed = checkpoint_blocks(model)
    >>> checkpointed.names
    ['0', '1', '2']
    >>> model(torch.ones(4, 8)).sum().backward()
    >>> checkpointed.remove()
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from fulldeck.errors import BadInput
from fulldeck.instruction import Evidence, Instruction, Prediction, instruction, param
from fulldeck.instructions.training.gradient_checkpointing.costs import (
    BlockCost,
    block_costs,
    blocks_to_checkpoint,
)
from fulldeck.instructions.training.gradient_checkpointing.recomputation import (
    CheckpointedBlocks,
    Keep,
    SameBuffers,
    checkpoint_blocks,
    chosen_blocks,
)
from fulldeck.machine import recent_peak, reset_peak
from fulldeck.memory import give_back, parse_bytes, spoken_bytes
from fulldeck.training.batch import split_batch
from fulldeck.training.random_state import random_state, restore_random_state
from fulldeck.training.trial import check_trial

if TYPE_CHECKING:
    from fulldeck.diagnosis.findings import Findings
    from fulldeck.training.batch import Batch
    from fulldeck.training.loop import TrainingLoop

__all__ = [
    "GradientCheckpointing",
    "block_costs",
    "blocks_to_checkpoint",
    "checkpoint_blocks",
]

MARGIN = 0.03
"""Share of the budget that is left free: no two steps take the same to the byte."""
MEASURED_SHARE = 8
"""One in so many samples of a part is enough to measure the blocks with."""
_SPARED = 0.5
"""Share of the activations that is not kept in a stack of two equal blocks, of which one is recomputed at a time."""


@instruction(
    23,
    stage="training",
    touches={"activations"},
    before={
        "train_step_compilation": "the compiler must see what is recomputed; it compiles the forward it finds"
    },
    evidence=Evidence(
        workload="stdlib_text", metric="peak_memory", expect="<= 0.85x", cost={"step_time": "<= 1.4x"}
    ),
)
class GradientCheckpointing(Instruction):
    every: int = param(1, ge=1, search=(1, 2, 4), doc="Checkpoint one block in this many.")
    blocks: tuple[str, ...] = param(
        (), doc="Blocks, by name, pattern (`encoder.*`) or class; left out: the repeated ones."
    )
    keep: Keep = param(
        "nothing",
        search=("nothing", "attention", "products"),
        doc="What is not recomputed: results of attention, or of all matrix products and convolutions.",
    )
    budget: str | None = param(
        None, doc="Most memory that training may take (on a CPU: this process), such as 2GiB."
    )

    @model_validator(mode="after")
    def _budget_is_an_amount(self) -> Self:
        if self.budget is not None:
            parse_bytes(self.budget)
            if self.every > 1:
                raise ValueError("gradient_checkpointing.budget chooses the blocks itself; leave every out")
        return self

    def clash(self, other: Instruction) -> str | None:
        """With a budget: what changes the micro-batch, for which the blocks were chosen."""
        if self.budget is not None and other.card.name == "dynamic_batch_scheduler":
            return (
                "gradient_checkpointing.budget chooses blocks for the micro-batch of the first steps, and "
                "dynamic_batch_scheduler changes it; leave gradient_checkpointing.budget out"
            )
        return super().clash(other)

    @classmethod
    def predict(cls, findings: Findings) -> Prediction | None:
        """Where memory limits: half of the activations less, as in the smallest stack of blocks."""
        memory = findings.memory
        if findings.kind != "training" or memory is None or not memory.full or not memory.activations:
            return None
        share = memory.activations / memory.peak
        return Prediction(
            "peak_memory",
            1 - _SPARED * share,
            f"activations are {share:.0%} of the memory in use, and of a stack of two equal blocks half of them need "
            "not be kept, of more blocks more",
            f"blocks are computed twice: a step takes up to {findings.phases['forward']:.0%} longer",
            eases=("capacity",),
        )

    def attach(self, loop: TrainingLoop) -> None:
        """Checkpoint blocks of the loop's model until it is handed over.

        Raises CannotAct if it has no repeated blocks, BadInput if nothing matches an entry of `blocks`.
        """
        if self.budget is not None:
            check_trial(loop)
        run = _Run(self, loop)
        run.wrap()
        loop.keep(run)
        loop.on("ready", run.wrap)
        loop.on("model_changed", run.wrap)
        loop.on("hand_over", run.remove)
        if self.budget is not None:
            loop.on("batch_start", run.measure)
            loop.on("step_end", run.choose)
            loop.keep_memory = False  # what the allocator keeps would count as used


class _Run:
    """Which blocks of one training are checkpointed; with a budget, what was measured to choose them."""

    def __init__(self, instruction: GradientCheckpointing, loop: TrainingLoop) -> None:
        self.instruction = instruction
        self.loop = loop
        self.chosen: list[str] | None = None
        self.costs: dict[str, BlockCost] = {}
        self.figures = loop.figures()
        self.checkpointed: CheckpointedBlocks | None = None

    def wrap(self) -> None:
        """Checkpoint the blocks that the model has now; those that are so already stay as they are."""
        own, model = self.instruction, self.loop.model
        if self.chosen is None:
            blocks = chosen_blocks(model, own.blocks, own.every)
        else:
            blocks = {name: model.get_submodule(name) for name in self.chosen}
        # A block that is wrapped anew is compiled anew.
        if self.checkpointed is None or self.checkpointed.blocks != blocks:
            self.remove()
            self.checkpointed = CheckpointedBlocks(blocks, own.keep)
        self.figures["checkpointed_blocks"] = {"before": 0, "after": len(blocks)}

    def remove(self) -> None:
        if self.checkpointed is not None:
            self.checkpointed.remove()
            self.checkpointed = None

    def measure(self, batch: Batch) -> None:
        """Before the first step: what each block costs, told from a few samples."""
        if self.chosen is not None or self.costs:
            return
        assert self.checkpointed is not None
        loop, names = self.loop, self.checkpointed.names
        rows = len(loop.split(batch)[0].targets)
        few = min(max(rows // MEASURED_SHARE, 2), rows)

        def run() -> object:
            part = split_batch(batch, few, loop.weigh)[0]
            loop.forward(part)
            return part

        before = random_state()
        with self.checkpointed.off(), SameBuffers(loop.model, nullcontext()):
            measured = block_costs(loop.model, run, names)
        restore_random_state(before)
        self.costs = {
            name: BlockCost(cost.bytes * rows // few, cost.seconds * rows / few)
            for name, cost in measured.items()
        }

    def choose(self, batch: Batch) -> None:
        """After two steps, the second of which had the optimizer's state: let blocks go."""
        device = self.loop.device
        if self.chosen is not None or not self.costs:
            return
        if self.loop.updates == 1:
            give_back(device)
            reset_peak(device)
            return
        assert self.instruction.budget is not None
        budget, peak = parse_bytes(self.instruction.budget), recent_peak(device)
        if peak > budget:
            raise BadInput(
                f"gradient_checkpointing.budget {self.instruction.budget} is below the {spoken_bytes(peak)} that "
                f"this training takes with every block checkpointed; write budget: "
                f"{spoken_bytes(peak / (1 - MARGIN))}, or a smaller micro_batch"
            )
        self.chosen = blocks_to_checkpoint(self.costs, int((1 - MARGIN) * budget) - peak)
        self.wrap()

    def state_dict(self) -> dict[str, Any]:
        return {"chosen": self.chosen, "costs": {n: [c.bytes, c.seconds] for n, c in self.costs.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.chosen = state["chosen"]
        self.costs = {name: BlockCost(*cost) for name, cost in state["costs"].items()}
        self.wrap()
