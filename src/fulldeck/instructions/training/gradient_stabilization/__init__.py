"""Keep bad gradients from the optimizer: clip them, skip spikes, and guard against NaN and infinity.

One corrupt batch can undo many steps: an optimizer's averages remember it. Before each step the common
norm of all gradients is compared with a running quantile of the last ones; a step far above it, or one that
is not finite, is left out as if it had not been, batch-norm's statistics included, and schedules and
averages do not count it. The others are clipped. Of a gradient that is not finite the origin is found by
computing the batch once more, and named in the run's notes; after `patience` such steps in a row, or once
the weights themselves are bad, the training fails and names it.

On an accelerator nothing is waited for: a fused optimizer leaves the step out by itself, and the host hears
of it some steps later (a schedule has counted it then). With other optimizers the verdict is read at each
step, which waits for the device; the run says so.

Use when: the loss has spikes, the data is not clean, or the model is deep and without normalisation.
Avoid when: rare samples matter most and have large gradients: raise `spike_factor` or leave out the skipping.
Reference: Pascanu et al. 2013, arXiv:1211.5063 (norm); Brock et al. 2021, arXiv:2102.06171 (adaptive);
Chowdhery et al. 2022, arXiv:2204.02311, section 5.1 (skipping batches at spikes).

Example:
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> model(torch.full((4, 2), 1e3)).sum().backward()
    >>> norm = clip_gradients(model.parameters(), "norm", limit=1.0)  # after backward, before your step
    >>> bool(norm > 1), round(float(gradient_norm(list(model.parameters()))), 3)
    (True, 1.0)
    >>> _ = torch.nn.init.constant_(model[2].bias, float("inf"))
    >>> first_fault(model, lambda: model(torch.ones(4, 2)))
    'the output of 2 (Linear)'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fulldeck.instruction import Evidence, Instruction, instruction, param
from fulldeck.instructions.training.gradient_stabilization import planted_spikes
from fulldeck.instructions.training.gradient_stabilization.clipping import clip_gradients, gradient_norm
from fulldeck.instructions.training.gradient_stabilization.fault import first_fault
from fulldeck.instructions.training.gradient_stabilization.guard import Guard

if TYPE_CHECKING:
    from fulldeck.evidence.outcome import Outcome
    from fulldeck.training.loop import TrainingLoop

__all__ = ["GradientStabilization", "clip_gradients", "first_fault", "gradient_norm"]


@instruction(
    16,
    stage="training",
    touches={"gradients"},
    evidence=Evidence(
        workload="digits",
        metric="accuracy_with_spikes",
        expect=">= +0.02",
        cost={"accuracy": ">= -0.01", "step_time": "<= 1.1x"},
    ),
)
class GradientStabilization(Instruction):
    clip: Literal["norm", "value", "adaptive", "none"] = param(
        "norm",
        search=("norm", "adaptive"),
        doc="Limit the common norm, each value, or each row relative to its weights.",
    )
    limit: float | None = param(
        None, gt=0, doc="What `clip` limits to; 1 for norm and value, 0.01 for adaptive."
    )
    skip_spikes: bool = param(True, doc="Leave out steps whose norm is far above the usual.")
    spike_factor: float = param(
        10.0, gt=1, search=(5.0, 10.0), doc="A spike is so many times the running quantile."
    )
    quantile: float = param(0.95, gt=0, le=1, doc="Which quantile of the last norms is the usual.")
    window: int = param(
        100, ge=20, doc="Number of last steps that it is taken of; the first 20 are never skipped as spikes."
    )
    patience: int = param(
        10, ge=1, doc="Steps in a row without a finite gradient after which the training fails."
    )
    decide: Literal["auto", "host", "device"] = param(
        "auto",
        doc="Where it is decided to skip; auto is the device if the optimizer can (fused), else the host.",
    )

    def attach(self, loop: TrainingLoop) -> None:
        """Judge each gradient before the optimizers step."""
        guard = Guard(self, loop)
        loop.keep(guard)
        loop.on("ready", guard.follow)
        loop.on("ready", guard.choose_place)
        loop.on("model_changed", guard.follow)
        loop.on("batch_start", guard.keep_statistics)
        loop.on("before_step", guard.before_step)
        loop.on("fit_end", guard.report)
        loop.on("hand_over", guard.release)

    def prove(self, outcome: Outcome) -> float:
        """accuracy_with_spikes: of a training with planted spikes, on validation data."""
        guarded = any(entry.instruction.card.name == self.card.name for entry in outcome.recipe.entries)
        return planted_spikes.metric_after_spikes(outcome, self if guarded else None)
