"""The forms of a schedule as torch schedulers: what the learning rate is after so many steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from fulldeck.errors import BadInput, closest

Kind = Literal["cosine", "one_cycle", "warmup_stable_decay", "linear", "polynomial", "plateau", "constant"]

_ONE_CYCLE_START = 25.0


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
