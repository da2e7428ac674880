"""Whether the loss is the same in few bits, and if not, which module makes the difference."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

Loss = Callable[[tuple[str, ...]], float]
"""Names of modules that are kept in float32 to the loss of one batch."""


def same_loss(one: float, other: float, tolerance: float) -> bool:
    """Whether `other` differs from `one` by at most `tolerance`, relative to `one`."""
    return math.isfinite(other) and abs(other - one) <= tolerance * max(abs(one), 1e-3)


def module_to_keep(model: nn.Module, exact: float, loss: Loss, tolerance: float) -> tuple[str, float] | None:
    """The smallest module that must stay in float32 for the loss to be `exact`, and the loss with it.

    None if no single one is enough. It looks into the one that is enough for a smaller one, from the model's
    children down, so it takes about as many losses as there are modules on the way.
    """
    found: tuple[str, float] | None = None
    parent, prefix = model, ""
    while True:
        for name, child in _called_children(parent, prefix):
            with_it = loss((name,))
            if same_loss(exact, with_it, tolerance):
                found, parent, prefix = (name, with_it), child, f"{name}."
                break
        else:
            return found


def _called_children(parent: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """The children, and in place of a list of modules, which is never called, what is in it."""
    result = []
    for name, child in parent.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            result += _called_children(child, f"{prefix}{name}.")
        else:
            result.append((f"{prefix}{name}", child))
    return result
