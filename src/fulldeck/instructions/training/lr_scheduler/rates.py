"""Base rates: of single groups of parameters, and for batches of another size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fulldeck.errors import BadInput, closest

Rule = Literal["linear", "square_root"]

_RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""What torch's schedulers note in a group; all are rates."""


def scale_lr_with_batch(
    optimizer: Optimizer, batch_size: int, reference_batch: int, *, rule: Rule = "square_root"
) -> float:
    """Multiply every group's rate, meant for `reference_batch` samples, by the rule; return the factor."""
    factor = batch_factor(batch_size, reference_batch, rule)
    scale_rates([optimizer], factor)
    return factor


def batch_factor(batch_size: int, reference_batch: int, rule: Rule) -> float:
    """What a rate that was meant for `reference_batch` samples is multiplied by for `batch_size`."""
    factor = batch_size / reference_batch
    return math.sqrt(factor) if rule == "square_root" else factor


def scale_rates(
    optimizers: Sequence[Optimizer],
    factor: float,
    schedulers: Sequence[LRScheduler] = (),
    plateaus: Sequence[ReduceLROnPlateau] = (),
) -> None:
    """Multiply the rates of all groups, now and in what is left of their schedules, by `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for name in _RATES:
                if name in group:
                    group[name] *= factor
    for scheduler in schedulers:
        scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
    for plateau in plateaus:
        plateau.min_lrs = [rate * factor for rate in plateau.min_lrs]


def split_groups(
    optimizers: Sequence[Optimizer],
    model: nn.Module,
    factors: Mapping[str, float] | Sequence[tuple[str, float]],
) -> None:
    """Give the parameters whose names match a pattern a group with `factor` times the rate, in place.

    A pattern has the wildcards of fnmatch, or is the name of a module, for all that is in it; the first that
    matches counts. The optimizers must not have stepped yet. Raises BadInput for a pattern that matches
    nothing.
    """
    pairs = list(factors.items()) if isinstance(factors, Mapping) else list(factors)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    used: set[str] = set()
    for optimizer in optimizers:
        for group in list(optimizer.param_groups):
            apart: dict[str, list[nn.Parameter]] = {}
            kept = []
            for parameter in group["params"]:
                pattern = _first_match(names.get(id(parameter), ""), pairs)
                kept.append(parameter) if pattern is None else apart.setdefault(pattern, []).append(parameter)
            group["params"] = kept
            used |= set(apart)
            for pattern, parameters in apart.items():
                rate = group["lr"] * dict(pairs)[pattern]
                optimizer.param_groups.append({**group, "params": parameters, "lr": rate})
    for pattern, _ in pairs:
        if pattern not in used:
            near = closest(pattern, [*names.values(), *(name for name, _ in model.named_modules() if name)])
            raise BadInput(f'lr_scheduler.groups: no parameter is left that matches "{pattern}"{near}')


def _first_match(name: str, pairs: Sequence[tuple[str, Any]]) -> str | None:
    for pattern, _ in pairs:
        if name and (fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")):
            return pattern
    return None
