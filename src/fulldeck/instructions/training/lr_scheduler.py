"""Change the learning rate while training: cosine, one-cycle, warm-up-stable-decay and others.

A rate that starts small, stays high for most of the time and ends small reaches a target in fewer steps
than a constant one, and needs less tuning. Each parameter group keeps its own base rate, which the
schedule multiplies. A step that was skipped does not count.

Use when: always; a constant rate is rarely the best.
Avoid when: the optimizer brings its own schedule (schedule-free methods).
Reference: Loshchilov & Hutter 2017, arXiv:1608.03983 (cosine); Smith & Topin 2018, arXiv:1708.07120
(one-cycle); Hägele et al. 2024, arXiv:2405.18392 (warm-up-stable-decay, "1-sqrt"); Goyal et al. 2017,
arXiv:1706.02677 (linear scaling); Malladi et al. 2022, arXiv:2205.10287 (square root scaling).

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

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from fulldeck.errors import BadInput, closest
from fulldeck.instruction import GOALS, Evidence, Instruction, instruction, param

if TYPE_CHECKING:
    from fulldeck.batch import Batch
    from fulldeck.data import Data
    from fulldeck.training_loop import TrainingLoop

Kind = Literal["cosine", "one_cycle", "warmup_stable_decay", "linear", "polynomial", "plateau", "constant"]

_WARMUP = {"one_cycle": 0.3, "constant": 0.0, "plateau": 0.0}
_ONE_CYCLE_START = 25.0


@instruction(
    8,
    stage="training",
    goals=GOALS,
    touches={"learning_rate"},
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
    warmup_steps: int | None = param(None, ge=0, doc="The same in units of `unit`, in place of the share.")
    unit: Literal["step", "epoch"] = param("step", doc="The rate changes after each step or each epoch.")
    min_lr_ratio: float = param(0.0, ge=0, lt=1, doc="Last rate as a share of the base rate.")
    power: float = param(2.0, gt=0, doc="Exponent of `polynomial`.")
    decay: float = param(0.2, gt=0, le=1, doc="Share of the training in which warmup_stable_decay decays.")
    metric: str = param("loss", doc="Validation metric that `plateau` watches.")
    mode: Literal["min", "max"] = param("min", doc="Whether a smaller or a larger metric is better.")
    factor: float = param(0.1, gt=0, lt=1, doc="What `plateau` multiplies the rate by.")
    patience: int = param(3, ge=0, doc="Evaluations without gain that `plateau` waits for.")
    reference_batch: int | None = param(
        None, ge=1, doc="Batch size that the base rate was meant for; the rate is scaled from it to this one."
    )
    scaling: Literal["linear", "square_root"] = param(
        "square_root", doc="Rule for `reference_batch`: linear suits SGD, square_root Adam and its kin."
    )

    @classmethod
    def suggest(cls, data: Data) -> tuple[Self, str]:
        """A rate that does not end at zero, where averages of the weights would gain nothing."""
        return cls(min_lr_ratio=0.1), "the rate ends at a tenth, so that averages of the weights still gain"

    def attach(self, loop: TrainingLoop) -> None:
        """Schedule every optimizer of the loop.

        Raises BadInput if the number of steps is not known or `plateau` finds no validation data.
        """
        run = _Run(self, loop)
        figures = loop.figures()
        loop.keep(run)
        loop.on("ready", run.start)
        loop.on("step_end" if self.unit == "step" else "epoch_end", run.advance)
        loop.on("fit_end", lambda: figures.update(learning_rate=run.change()))
        if self.kind == "plateau":
            if loop.validation is None:
                raise BadInput("lr_scheduler: plateau needs validation data; split some off, or use cosine")
            loop.on("evaluation", run.watch)

    def warm_up(self, total: int) -> int:
        """Units of warm-up in a training of `total`."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        share = _WARMUP.get(self.kind, 0.05) if self.warmup is None else self.warmup
        return round(share * total)


class _Run:
    """The schedules of one training."""

    def __init__(self, instruction: LrScheduler, loop: TrainingLoop) -> None:
        self.instruction = instruction
        self.loop = loop
        self.total = 0
        self.base_rate = 0.0
        self.schedulers: list[LRScheduler] = []
        self.plateaus: list[ReduceLROnPlateau] = []

    def start(self) -> None:
        chosen, loop = self.instruction, self.loop
        self.base_rate = loop.learning_rate()
        self.total = _total_steps(loop) if chosen.unit == "step" else loop.epochs
        warmup = chosen.warm_up(self.total)
        for optimizer in loop.optimizers:
            if chosen.reference_batch is not None:
                scale_lr_with_batch(optimizer, _batch_size(loop), chosen.reference_batch, rule=chosen.scaling)
            if chosen.kind == "plateau":
                self.plateaus.append(_plateau(chosen, optimizer))
            self.schedulers.append(
                schedule(
                    optimizer,
                    "constant" if chosen.kind == "plateau" else chosen.kind,
                    total_steps=self.total,
                    warmup_steps=warmup,
                    min_lr_ratio=chosen.min_lr_ratio,
                    power=chosen.power,
                    decay=chosen.decay,
                )
            )
        if self.plateaus:
            self.total = warmup + 1

    def change(self) -> dict[str, float]:
        return {"before": self.base_rate, "after": self.loop.learning_rate()}

    def advance(self, batch: Batch | None = None) -> None:
        for scheduler in self.schedulers:
            # The last rate stays: OneCycleLR has none after it, and a plateau goes on from the warm-up's.
            if scheduler.last_epoch < self.total - 1:
                scheduler.step()

    def watch(self, metrics: dict[str, float]) -> None:
        name = f"validation_{self.instruction.metric}"
        if name not in metrics:
            there = [key.removeprefix("validation_") for key in metrics]
            raise BadInput(
                f'lr_scheduler: no metric "{self.instruction.metric}"'
                f"{closest(self.instruction.metric, there) or '; there is ' + ', '.join(there)}"
            )
        for scheduler, plateau in zip(self.schedulers, self.plateaus, strict=True):
            if scheduler.last_epoch >= self.total - 1:
                plateau.step(metrics[name])

    def state_dict(self) -> dict[str, Any]:
        return {
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "plateaus": [plateau.state_dict() for plateau in self.plateaus],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for scheduler, saved in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        for plateau, saved in zip(self.plateaus, state["plateaus"], strict=True):
            plateau.load_state_dict(saved)


def schedule(
    optimizer: Optimizer,
    kind: Kind,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    min_lr_ratio: float = 0.0,
    power: float = 2.0,
    decay: float = 0.2,
) -> LRScheduler:
    """A torch scheduler for `optimizer`, to be stepped after each of `total_steps` optimizer steps.

    The rates that the groups have now are the highest that they will get. See `lr_multiplier` for the
    forms; one_cycle is torch's OneCycleLR, which also lowers and raises the momentum, where the
    optimizer has one. Raises BadInput for an unknown kind, and for plateau, which is no function of the
    step: use torch's ReduceLROnPlateau.
    """
    kinds = [name for name in get_args(Kind) if name != "plateau"]
    if kind not in kinds:
        wrong = f'unknown kind "{kind}" of schedule{closest(str(kind), kinds)}'
        if kind == "plateau":
            wrong = "plateau is no function of the step: use torch's ReduceLROnPlateau"
        raise BadInput(f"{wrong}; there is {', '.join(kinds)}")
    if kind == "one_cycle":
        total = max(total_steps, 3)
        peak = min(max(warmup_steps, 1), total - 2)
        groups = optimizer.param_groups
        return OneCycleLR(
            optimizer,
            max_lr=[float(group["lr"]) for group in groups],
            total_steps=total,
            pct_start=(peak + 1) / total,
            cycle_momentum=all("betas" in group or group.get("momentum", 0) > 0 for group in groups),
            div_factor=_ONE_CYCLE_START,
            final_div_factor=1 / (_ONE_CYCLE_START * min_lr_ratio) if min_lr_ratio else 1e4,
        )
    return LambdaLR(
        optimizer,
        lr_multiplier(
            kind,
            total_steps,
            warmup_steps=warmup_steps,
            min_lr_ratio=min_lr_ratio,
            power=power,
            decay=decay,
        ),
    )


def lr_multiplier(
    kind: Kind,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    min_lr_ratio: float = 0.0,
    power: float = 2.0,
    decay: float = 0.2,
) -> Callable[[int], float]:
    """The function from the number of steps done to the factor of the base rate.

    It rises linearly over `warmup_steps`, is 1 at their end, and falls to `min_lr_ratio` (0 to 1) at
    `total_steps`: along half a cosine wave, a line, a polynomial of `power`, or, for
    warmup_stable_decay, as 1 - sqrt over the last share `decay` of all steps. Raises ValueError for a
    kind that is no function of the step.
    """
    shapes: dict[str, Callable[[float], float]] = {
        "constant": lambda done: 1.0,
        "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
        "linear": lambda done: 1 - done,
        "polynomial": lambda done: (1 - done) ** power,
        "warmup_stable_decay": lambda done: 1 - math.sqrt(done),
    }
    if kind not in shapes:
        raise ValueError(f"{kind} is no function of the step; there is {', '.join(shapes)}")
    shape = shapes[kind]
    start: float = warmup_steps
    if kind == "warmup_stable_decay":
        start = max(start, (1 - decay) * total_steps)
    length = max(total_steps - start, 1)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        done = min(max((step - start) / length, 0.0), 1.0)
        return min_lr_ratio + (1 - min_lr_ratio) * shape(done)

    return factor


def scale_lr_with_batch(
    optimizer: Optimizer,
    batch_size: int,
    reference_batch: int,
    *,
    rule: Literal["linear", "square_root"] = "square_root",
) -> float:
    """Multiply every group's rate, meant for `reference_batch` samples, by the rule; return the factor."""
    factor = batch_size / reference_batch
    if rule == "square_root":
        factor = math.sqrt(factor)
    for group in optimizer.param_groups:
        group["lr"] *= factor
    return factor


def _plateau(chosen: LrScheduler, optimizer: Optimizer) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(
        optimizer,
        mode=chosen.mode,
        factor=chosen.factor,
        patience=chosen.patience,
        min_lr=[float(group["lr"]) * chosen.min_lr_ratio for group in optimizer.param_groups],
    )


def _total_steps(loop: TrainingLoop) -> int:
    try:
        return loop.total_steps
    except TypeError:
        if loop.max_steps is None:
            raise BadInput(
                "lr_scheduler needs to know the number of steps, and this loader has no length; "
                "set max_steps, or use unit: epoch"
            ) from None
        return loop.max_steps


def _batch_size(loop: TrainingLoop) -> int:
    loader = getattr(loop.loader, "iterable", loop.loader)
    size = getattr(loader, "batch_size", None)
    if size is None:
        raise BadInput(
            "lr_scheduler.reference_batch: this loader does not tell its batch size; leave reference_batch out"
        )
    return int(size)
