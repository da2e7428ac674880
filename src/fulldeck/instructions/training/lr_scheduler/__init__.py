"""Change the learning rate while training: cosine, one-cycle, warm-up-stable-decay and others.

A rate that starts small, stays high for most of the time and ends small reaches a target in fewer steps
than a constant one, and needs less tuning. It follows the steps, the epochs, or the time (`unit: time` ends
the training after `seconds`). Each parameter group keeps its own base rate, which the schedule multiplies;
`groups` sets apart some by name. A step that was skipped does not count. Where the effective batch is changed
(dynamic_batch_scheduler), rates follow by `scaling`. With `range_test` the base rate itself is found before
training, on steps that leave no trace; the report shows its curve.

Use when: always; a constant rate is rarely the best.
Avoid when: the optimizer brings its own schedule (schedule-free methods).
Reference: Loshchilov & Hutter 2017, arXiv:1608.03983 (cosine); Smith & Topin 2018, arXiv:1708.07120
(one-cycle); Hägele et al. 2024, arXiv:2405.18392 (warm-up-stable-decay, "1-sqrt"); Smith 2017,
arXiv:1506.01186 (range test); Goyal et al. 2017, arXiv:1706.02677 (linear scaling); Malladi et al. 2022,
arXiv:2205.10287 (square root scaling).

Example:
    >>> import torch
    >>> weights = torch.nn.Parameter(torch.ones(3))
    >>> optimizer = torch.optim.SGD([weights], lr=1.0)
    >>> scheduler = schedule(optimizer, "linear", total_steps=6, warmup_steps=2)
    >>> rates = []
    >>> for step in range(6):
    ...     rates.append(round(scheduler.get_last_lr()[0], 2))
    ...     optimizer.step()
    ...     scheduler.step()
    >>> rates
    [0.33, 0.67, 1.0, 0.75, 0.5, 0.25]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from fulldeck.errors import BadInput
from fulldeck.instruction import GOALS, Evidence, Instruction, instruction, param
from fulldeck.instructions.training.lr_scheduler.range_test import RangeTest, range_test
from fulldeck.instructions.training.lr_scheduler.rates import (
    Rule,
    batch_factor,
    scale_lr_with_batch,
    scale_rates,
    split_groups,
)
from fulldeck.instructions.training.lr_scheduler.scheduled_run import ScheduledRun
from fulldeck.instructions.training.lr_scheduler.schedules import Kind, lr_multiplier, schedule
from fulldeck.training.trial import check_trial

if TYPE_CHECKING:
    from fulldeck.data import Data
    from fulldeck.training.loop import TrainingLoop

__all__ = [
    "LrScheduler",
    "RangeTest",
    "batch_factor",
    "lr_multiplier",
    "range_test",
    "scale_lr_with_batch",
    "scale_rates",
    "schedule",
    "split_groups",
]


@instruction(
    8,
    stage="training",
    goals=GOALS,
    touches={"learning_rate"},
    before={"dynamic_batch_scheduler": "the rate is meant for the batch that there is before it is changed"},
    evidence=Evidence(workload="digits", metric="steps_to_target", expect="<= 0.67x"),
)
class LrScheduler(Instruction):
    kind: Kind = param(
        "cosine",
        search=("cosine", "one_cycle", "warmup_stable_decay"),
        doc="Form of the schedule.",
    )
    warmup: float | None = param(
        None, ge=0, lt=1, doc="Share of the training in which the rate rises; 0.05, and 0.3 for one_cycle."
    )
    warmup_steps: int | None = param(
        None, ge=0, doc="The same in units of `unit` (step or epoch), in place of the share."
    )
    unit: Literal["step", "epoch", "time"] = param(
        "step",
        doc="What the schedule follows: it changes the rate after each step, each epoch, or with time.",
    )
    seconds: float | None = param(
        None, gt=0, doc="Length of the training for `unit: time`, which is stopped then."
    )
    min_lr_ratio: float = param(0.0, ge=0, lt=1, doc="Last rate as a share of the base rate.")
    power: float = param(2.0, gt=0, doc="Exponent of `polynomial`.")
    decay: float = param(0.2, gt=0, le=1, doc="Share of the training in which warmup_stable_decay decays.")
    metric: str = param("loss", doc="Validation metric that `plateau` watches.")
    mode: Literal["min", "max"] = param("min", doc="Whether a smaller or a larger metric is better.")
    factor: float = param(0.1, gt=0, lt=1, doc="What `plateau` multiplies the rate by.")
    patience: int = param(3, ge=0, doc="Evaluations without gain that `plateau` waits for.")
    groups: tuple[tuple[str, Annotated[float, Field(gt=0)]], ...] = param(
        (),
        hint='Write pairs such as groups: [["head.*", 10], [encoder, 0.1]].',
        doc="Pairs of a name (of parameters with * and ?, or of a module) and a factor of the base rate there.",
    )
    range_test: bool = param(
        False, doc="Find the base rate by a test before training, in place of train.learning_rate."
    )
    reference_batch: int | None = param(
        None,
        ge=1,
        doc="Batch size that the base rate is meant for; left out: the one before any instruction changes it.",
    )
    scaling: Rule = param(
        "square_root",
        doc="How rates follow a changed batch size: linear suits SGD, square_root Adam and its kin.",
    )

    @field_validator("groups")
    @classmethod
    def _each_once(cls, groups: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
        if len({name for name, _ in groups}) < len(groups):
            raise ValueError("lr_scheduler.groups must name each group once")
        return groups

    @model_validator(mode="after")
    def _time_has_a_length(self) -> Self:
        if (self.unit == "time") != (self.seconds is not None):
            raise ValueError(
                "lr_scheduler: unit: time and seconds belong together; write seconds: 600 for ten minutes"
            )
        if self.unit == "time" and self.warmup_steps is not None:
            raise ValueError(
                "lr_scheduler.warmup_steps counts steps; with unit: time write warmup: 0.05, a share"
            )
        return self

    @classmethod
    def suggest(cls, data: Data) -> tuple[Self, str]:
        """A rate that does not end at zero, where averages of the weights would gain nothing."""
        return cls(min_lr_ratio=0.1), "the rate ends at a tenth, so that averages of the weights still gain"

    def attach(self, loop: TrainingLoop) -> None:
        """Schedule every optimizer of the loop.

        Raises BadInput if the number of steps is not known or `plateau` finds no validation data.
        """
        if self.kind == "plateau" and loop.validation is None:
            raise BadInput("lr_scheduler: plateau needs validation data; split some off, or use cosine")
        if self.range_test:
            check_trial(loop)
        run = ScheduledRun(self, loop)
        loop.keep(run)
        loop.on("ready", run.start)
        loop.on("epoch_start", run.begin)
        loop.on("batch_start", run.follow_batch)
        loop.on("epoch_end" if self.unit == "epoch" else "step_end", run.advance)
        loop.on("fit_end", run.report)
        if self.kind == "plateau":
            loop.on("evaluation", run.watch)

    def warm_up(self, total: int) -> int:
        """Units of warm-up in a training of `total`."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round(self.warm_up_share() * total)

    def warm_up_share(self) -> float:
        """The share of the training in which the rate rises, unless `warmup_steps` says it."""
        defaults: dict[str, float] = {"one_cycle": 0.3, "constant": 0.0, "plateau": 0.0}
        return defaults.get(self.kind, 0.05) if self.warmup is None else self.warmup
