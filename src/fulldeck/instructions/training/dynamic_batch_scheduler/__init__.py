"""Compute as many samples at once as fit into memory, and add up their gradients to the batch that was asked for.

Memory is about a + b x samples, so two probes on a few samples of the first batch predict what fits. The
micro-batch then follows the high-water mark of the device's allocator (on a CPU, of this process): above
`high` it is halved, and the number of parts grows, so that the optimizer sees the same batch; below `low` for
a while it grows again. When memory runs out, what was computed is dropped and the same samples are computed
again in smaller parts. The gradient is the sum over all samples (or tokens) divided by their number: exact
also for a ragged last batch, up to rounding, and the learning rate needs no change.

Two things are not the same: batch-norm takes its statistics from each part, and dropout draws other masks.
Runs in which that happened say so. A resumed run goes on with the same parts.

Use when: batches do not fit, or the memory that is free is not known beforehand, or sizes of inputs vary.
Avoid when: everything fits with room to spare: nothing is gained.
Reference: Goyal et al. 2017, arXiv:1706.02677 (the effective batch decides); the line through two probes is
this file's. Chen et al. 2016, arXiv:1604.06174, shrinks b: see gradient_checkpointing.

Example:
    >>> import torch
    >>> model = torch.nn.Linear(64, 8)
    >>> def step(samples):
    ...     model(torch.ones(samples, 64)).exp().sum().backward()
    >>> largest_batch(step, limit=2**40, most=256)
    256
    >>> token_budget_batches([3, 9, 4, 8], tokens=18)
    [[0, 2], [3, 1]]
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from fulldeck.device import pick_device
from fulldeck.errors import BadInput
from fulldeck.instruction import Evidence, Instruction, Prediction, instruction, param
from fulldeck.instructions.training.dynamic_batch_scheduler.parts import Parts
from fulldeck.instructions.training.dynamic_batch_scheduler.probes import largest_batch, token_budget_batches
from fulldeck.machine import recent_peak, reset_peak
from fulldeck.memory import give_back, memory_in_use, parse_bytes, spoken_bytes
from fulldeck.training.loader import BatchLoader

if TYPE_CHECKING:
    from fulldeck.diagnosis.findings import Findings
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.training.loop import TrainingLoop

__all__ = ["DynamicBatchScheduler", "largest_batch", "token_budget_batches"]


@instruction(
    5,
    stage="training",
    touches={"batch_size"},
    before={
        "weight_averaging": "it counts an epoch's steps when it attaches, and effective_batch changes them"
    },
    evidence=Evidence(
        workload="digits", metric="budget_used", expect="<= 0.6x", cost={"validation_loss": "<= 1.01x"}
    ),
)
class DynamicBatchScheduler(Instruction):
    budget: str | None = param(
        None,
        doc="Most memory that may be in use, such as 12GiB (on a CPU: by this process); left out: all there is.",
    )
    high: float = param(
        0.85, gt=0, le=1, search=(0.75, 0.85, 0.95), doc="Share of the budget above which parts are halved."
    )
    low: float = param(0.5, ge=0, lt=1, doc="Share of the budget below which they may grow again.")
    patience: int = param(5, ge=1, doc="Readings below `low`, one after another, before they grow.")
    unit: Literal["samples", "tokens"] = param(
        "samples", doc="What a part holds equally many of; tokens where the length of inputs varies."
    )
    effective_batch: int | None = param(
        None, ge=1, doc="Samples of an optimizer step; left out: as the loader gives them."
    )

    @model_validator(mode="after")
    def _marks_and_budget(self) -> Self:
        if self.low >= self.high:
            raise ValueError(
                f"dynamic_batch_scheduler.low must be below high ({self.high:g}), got {self.low:g}"
            )
        if self.budget is not None:
            parse_bytes(self.budget)
        return self

    @classmethod
    def predict(cls, findings: Findings) -> Prediction | None:
        """Where memory limits: parts of a batch that keep it below the high mark, by what samples take of it."""
        memory = findings.memory
        if findings.kind != "training" or memory is None or not memory.full:
            return None
        by_samples = memory.activations + memory.batch
        high: float = cls.model_fields["high"].default
        # Below one sample, and what is there without any, no part of a batch comes.
        needed = max(high * memory.limit, memory.peak - by_samples)
        if needed >= memory.peak:
            return None
        return Prediction(
            "peak_memory",
            needed / memory.peak,
            f"{by_samples / memory.peak:.0%} of the memory in use grows with the samples that are computed at once; "
            f"parts of a batch keep it at {needed / memory.limit:.0%} of {spoken_bytes(memory.limit)}",
            "batch-norm takes its statistics from each part; very small parts leave the device idle",
            eases=("capacity",),
        )

    def attach(self, loop: TrainingLoop) -> None:
        """Let the loop compute its batches in parts that fit.

        Raises BadInput if the loader cannot give `effective_batch` samples.
        """
        if self.effective_batch is not None:
            _set_batch_size(loop, self.effective_batch)
        parts = Parts(self, loop)
        loop.keep(parts)
        loop.around("gradients", parts.gradients)
        loop.on("step_end", parts.step_end)
        loop.on("model_changed", parts.follow)
        loop.on("hand_over", parts.end)

    def prove(self, outcome: Outcome) -> float:
        """budget_used: what a step takes, as a share of half of what the whole train split takes at once."""
        return _budget_used(self, outcome)


def _set_batch_size(loop: TrainingLoop, size: int) -> None:
    loader = loop.loader
    if not isinstance(loader, BatchLoader):
        raise BadInput(
            f"dynamic_batch_scheduler.effective_batch {size} cannot be met: the batches of this loader are made "
            "elsewhere; let it give so many samples, they are computed in parts, and leave effective_batch out"
        )
    if size > (there := len(loader.sampler.indices(0))):
        raise BadInput(
            f"dynamic_batch_scheduler.effective_batch {size} cannot be met: there are {there} samples to train on"
        )
    loader.batch_size = size


def _budget_used(instruction: DynamicBatchScheduler, outcome: Outcome) -> float:
    from fulldeck.training.loop import TrainingLoop

    workload, data, device = outcome.recipe.workload, outcome.data, pick_device(outcome.recipe.train.device)
    encoder = data.encoder
    assert encoder is not None

    def peak(*instructions: Instruction) -> tuple[int, int]:
        """Bytes in use before, and the most until the last of three gradients was there."""
        gc.collect()  # loops and their handlers know each other
        give_back(device)
        held = memory_in_use(device)
        loop = TrainingLoop(
            workload.model(data),
            BatchLoader(data.train, encoder, len(data.train)),
            workload.loss(data),
            instructions=instructions,
            epochs=3,
            device=device.type,
        )
        peaks: list[int] = []
        loop.keep_memory = False  # or what the run before has freed would seem to be in use
        loop.on("batch_start", lambda batch: reset_peak(device))
        loop.on("before_step", lambda batch: peaks.append(recent_peak(device)))
        loop.fit()
        return held, peaks[-1]

    held, whole = peak()
    half = held + (whole - held) // 2
    own = any(entry.instruction.card.name == instruction.card.name for entry in outcome.recipe.entries)
    scheduled = [instruction.replace(budget=spoken_bytes(half), high=0.99)] if own else []
    held, most = peak(*scheduled)
    return (most - held) / (half - held)
